"""The MLP learns digits with the same loader, reducer and training step as the GPT."""

import numpy as np
import pytest

from minitrain.autograd import no_grad
from minitrain.backend import to_host
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.data.batch import Batch
from minitrain.data.digits import load_digits, split_digits
from minitrain.data.loader import ArrayLoader
from minitrain.models import Model, mlp
from minitrain.optim import Adam
from minitrain.parallel.parallelize import parallelize
from minitrain.parallel.strategy import Strategy
from minitrain.train.step import train_step

SEED, EPOCHS = 1, 8


def accuracy(model: Model, data: ArrayLoader) -> float:
    """Return the fraction of samples whose most probable class is their label."""
    right = 0
    with no_grad():
        for batch in data.validation():
            logits = to_host(model(Batch(batch.inputs, None, batch.where)).data)
            right += int((logits.argmax(axis=1) == batch.labels).sum())
    return right / len(data.labels)


def train(world: Communicator) -> tuple[float, float, float]:
    """Return (loss of the first epoch, of the last, accuracy on held-out data)."""
    images, labels = load_digits()
    learned, held_out = split_digits(images.astype(np.float32), labels, SEED)
    data, validation = (ArrayLoader(*examples, batch=32, seed=SEED) for examples in (learned, held_out))
    model = mlp()
    reducer = parallelize(model, Mesh(world, dp=world.size), Strategy(bucket_mb=0.05))
    reducer.init(SEED)
    optimizer = Adam(reducer)
    losses = []
    for number in range(EPOCHS * data.batches):
        mine = data.batch(number).part(world.rank, world.size)
        losses.append(sum(world.gather_objects(train_step(model, mine, reducer, optimizer, lr=0.001)[0])))
    first, last = np.mean(losses[: data.batches]), np.mean(losses[-data.batches :])
    return float(first), float(last), accuracy(model, validation)


@pytest.fixture(scope="module")
def serial() -> tuple[float, float, float]:
    return train(threads.world_of_one())


def test_digits_are_learned(serial: tuple[float, float, float]) -> None:
    first, last, right = serial
    assert last < first / 4
    assert right >= 0.93


@pytest.mark.full
def test_digits_are_learned_by_three_ranks(serial: tuple[float, float, float]) -> None:
    """Batches of 32 samples on 3 ranks; the last batch of an epoch has 30."""
    for found in threads.run(3, train):
        assert np.allclose(found, serial, rtol=1e-2)
