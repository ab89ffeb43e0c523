"""A loss or gradient that is NaN or infinite names its cause: the sample, the layer, or half precision."""

import math

import numpy as np
import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.data.loader import ArrayLoader
from minitrain.errors import UserError
from minitrain.models import MLPConfig, mlp
from minitrain.optim import SGD
from minitrain.precision import DynamicScaler, Scaler, StaticPolicy
from minitrain.train.trainer import Trainer
from tests.train.test_trainer import data, small
from tests.train.test_values import on_ranks


def test_a_loss_that_is_no_number() -> None:
    trainer = small(threads.world_of_one(), schedule=1e200, optimizer=SGD, advice="do something")
    with (
        np.errstate(all="ignore"),
        pytest.raises(UserError, match=r"the loss is (nan|inf) in batch 1, at update 1; .*; do something"),
    ):
        trainer.fit(data(25), 3, data(10))


@pytest.mark.parametrize("bad", ["dense.0", "dense.1", "head"])
@pytest.mark.ranks(2, full=(1,))
def test_a_loss_that_is_no_number_names_layer_and_batch(world: Communicator, bad: str) -> None:
    """Only one rank has it in batch 2, but all raise the same error before any of them steps."""
    trainer = small(world)
    for number in range(2):
        trainer.step(data(25).batch(number))
    batch = data(25).batch(2)
    p = next(p for p in trainer.model.parameters() if p.placement.path == f"{bad}.linear.bias")
    p.data[...] = np.nan if world.rank == world.size - 1 else p.data
    with pytest.raises(UserError, match=rf"the loss is nan in batch 2, at update 2; the first layer .* is {bad}; give"):
        trainer.step(batch)
    assert trainer.updates == 2


def test_half_precision_alone_is_to_blame() -> None:
    """Activations of 1e5 overflow float16: with a scaler the batch is skipped, without one the error gives advice."""
    scaled, alone = DynamicScaler(patience=2, value=1.0), "half precision overflows.*bfloat16"
    for scaler, helps in ((scaled, "2 batches in a row overflowed with the loss scale 1"), (Scaler(), alone)):
        model = mlp(MLPConfig(inputs=5, hidden=(6, 4), classes=2))
        trainer = Trainer(model, threads.world_of_one(), precision=StaticPolicy(), scaler=scaler)
        model.parameters()[0].data *= 1e6
        if scaler is scaled:
            assert trainer.step(data(25).batch(0)).skipped and trainer.updates == 0
        with pytest.raises(UserError, match=helps), np.errstate(over="ignore", invalid="ignore"):
            trainer.step(data(25).batch(0))


def test_a_gradient_that_is_too_large_behind_a_finite_loss() -> None:
    """Weights of 0 keep huge inputs out of the loss. In float64, half precision is not to blame."""
    trainer = Trainer(mlp(MLPConfig(5, (4,), 2, "float64")), threads.world_of_one(), optimizer=SGD, advice="do it")
    weight, bias, *_ = trainer.model.parameters()
    weight.data[...], bias.data[...] = 0, 1
    batch = ArrayLoader(np.full((4, 5), 1e200), [0, 0, 0, 1], 4, seed=1).batch(0)
    said = r"^the norm of the gradient is inf in batch 0, at update 0, although every layer's output is finite; do it$"
    with np.errstate(over="ignore"), pytest.raises(UserError, match=said):
        trainer.step(batch)


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_sample_that_is_not_finite_is_named(ranks: int, bad: float) -> None:
    """All ranks name the sample, and do not blame the learning rate."""
    draw = np.random.default_rng(1)
    inputs, labels = draw.normal(size=(25, 5)).astype(np.float32), draw.integers(0, 2, 25)
    inputs[17, 2] = bad
    data = ArrayLoader(inputs, labels, 7, seed=1)

    def program(world: Communicator) -> str:
        made = Trainer(mlp(MLPConfig(5, (4,), 2)), world)
        with pytest.raises(UserError) as caught, np.errstate(invalid="ignore"):
            made.fit(data, 1)
        return str(caught.value)

    first, *others = on_ranks({"dp": ranks}, program)
    assert others == [first] * (ranks - 1) and len(first.splitlines()) <= 3
    assert "row 17 of the data, has inputs that are NaN or infinite" in first
    assert "smaller" not in first
