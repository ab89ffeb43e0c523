"""A loss without a denominator: the mean over a whole batch, the same loss in parts, or a refusal that explains why."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minitrain import functional as F
from minitrain import fused
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.data.batch import Batch, Where
from minitrain.errors import UserError
from minitrain.models import Model
from minitrain.nn import Linear, Module
from minitrain.optim import SGD
from minitrain.parallel.parallelize import parallelize
from minitrain.parallel.strategy import Strategy
from minitrain.tensor import Tensor
from minitrain.train.step import train_step
from tests.gradcheck import close

Loss = Callable[[Tensor, Batch], Tensor]
B, IN, OUT = 7, 4, 3
LABELS = np.array([0, 2, fused.IGNORE, 1, 2, fused.IGNORE, 0])


class Unit(Module):
    """A unit with one layer and a custom loss."""

    def __init__(self, loss: Loss) -> None:
        self.path, self.loss = "unit", loss
        self.linear = Linear("unit.linear", IN, OUT, std=0.5, dtype=np.float64)

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        return self.loss(self.linear(Tensor(batch.inputs)), batch)


def whole() -> Batch:
    inputs = np.random.default_rng(0).standard_normal((B, IN))
    return Batch(inputs, LABELS, Where(1, 0, B, 1, slice(0, B), slice(0, 1)))


def trained(world: Communicator, loss: Loss, k: int) -> tuple[float, np.ndarray]:
    """Return the global loss of one step and the weights after it."""
    model = Model([Unit(loss)])
    reducer = parallelize(model, Mesh(world, dp=world.size), Strategy())
    reducer.init(seed=1)
    part = whole().part(world.rank, world.size)
    value, _ = train_step(model, part, reducer, SGD(reducer), 0.5, k)
    unit: Any = model.units[0]
    return sum(world.gather_objects(value)), unit.linear.weight.data.copy()


def targets(batch: Batch) -> np.ndarray:
    return np.cos(batch.inputs[:, :OUT])


LOSSES: dict[str, tuple[Loss, Loss]] = {
    "cross_entropy": (
        lambda y, batch: fused.cross_entropy(y, batch.labels),
        lambda y, batch: fused.cross_entropy(y, batch.labels, 5),
    ),
    "mean_squared_error": (
        lambda y, batch: fused.mean_squared_error(y, targets(batch)),
        lambda y, batch: fused.mean_squared_error(y, targets(batch), B * OUT),
    ),
}


@pytest.mark.parametrize(("ranks", "k"), [(1, 1), (1, 2), (3, 1), (3, 2)])
@pytest.mark.parametrize(("loss", "reference"), LOSSES.values(), ids=LOSSES)
def test_parts_add_up_to_the_mean(loss: Loss, reference: Loss, ranks: int, k: int) -> None:
    """Three ranks have 3, 2 and 2 samples; some micro-batches have a single sample, which may be ignored."""
    expected_value, expected_weight = trained(threads.world_of_one(), reference, 1)
    for value, weight in threads.run(ranks, lambda world: trained(world, loss, k)):
        assert close(value, expected_value) <= 1e-13 and close(weight, expected_weight) <= 1e-13


def test_a_loss_by_itself_is_the_mean() -> None:
    x = Tensor(np.random.default_rng(1).standard_normal((B, OUT)), requires_grad=True)
    assert fused.cross_entropy(x, LABELS).item() == fused.cross_entropy(x, LABELS, 5).item()
    y = fused.mean_squared_error(x, np.zeros((B, OUT)))
    assert close(y.data, (x * x).mean().data) <= 1e-15
    for call in (
        lambda: fused.cross_entropy(x, np.full(B, fused.IGNORE)),
        lambda: fused.mean_squared_error(x[:0], np.zeros((0, OUT))),
    ):
        with pytest.raises(ValueError, match="nothing to average"):
            call()


OTHERS: dict[str, Loss] = {
    "other labels": lambda y, batch: fused.cross_entropy(F.concatenate([y, y]), [*[0] * (2 * len(y.data))]),
    "not by sample": lambda y, batch: fused.mean_squared_error(y.reshape(-1), np.zeros(y.data.size)),
}


@pytest.mark.parametrize(("ranks", "k"), [(1, 2), (3, 1)])
@pytest.mark.parametrize("loss", OTHERS.values(), ids=OTHERS)
def test_what_a_part_cannot_know_is_refused(loss: Loss, ranks: int, k: int) -> None:
    trained(threads.world_of_one(), loss, 1)  # the mean

    def program(world: Communicator) -> str:
        with pytest.raises(UserError) as error:
            trained(world, loss, k)
        return str(error.value)

    for message in threads.run(ranks, program):
        assert "has no denominator, but sees only a part of the global batch" in message


def test_a_loss_outside_the_model_is_refused_in_a_step_of_parts() -> None:
    """The logits come from a batch without labels, so it is unknown what they are a part of."""

    def program(world: Communicator) -> str:
        model = Model([Unit(lambda y, batch: y)])
        reducer = parallelize(model, Mesh(world, dp=world.size), Strategy())
        reducer.init(seed=1)
        part = whole().part(world.rank, world.size)
        reducer.start_step()
        with pytest.raises(UserError, match="cross_entropy has no denominator") as error:
            fused.cross_entropy(model(part), part.labels)
        fused.cross_entropy(model(part), part.labels, part.where.count).backward()
        reducer.end_backward()
        reducer.synchronize()
        fused.cross_entropy(model(part), part.labels)  # outside a training step
        return str(error.value)

    messages = threads.run(2, program)
    assert messages[0] == messages[1] and "Give denominator: batch.where.count" in messages[0]
