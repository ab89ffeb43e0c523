"""MINITRAIN_DEBUG=1: an array that backward needs and that is changed after the forward is named."""

from collections.abc import Callable

import numpy as np
import pytest

from minitrain import Tensor, debug
from minitrain import functional as F
from minitrain.comm.communicator import Communicator
from minitrain.nn import Linear
from tests.train.test_values import batch, every_way, gathered, on_ranks, same, small, trainer


@pytest.fixture(autouse=True)
def debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug, "on", True)


def leaf(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(1).normal(size=shape), requires_grad=True)


def in_place(x: Tensor) -> None:
    x.data *= 10


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (lambda x: x * x, "multiply"),
        (lambda x: F.exp(x), "exp"),
        (lambda x: F.softmax(x), "softmax"),
        (lambda x: F.relu(x), "relu"),
    ],
)
def test_a_result_or_an_operand_that_was_changed(operation: Callable[[Tensor], Tensor], name: str) -> None:
    x = leaf(3, 4)
    y = operation(x)
    in_place(y if name != "multiply" else x)
    with pytest.raises(
        RuntimeError, match=rf"an array of float64, shape \(3, 4\), was changed after .*'{name}'"
    ) as caught:
        F.sum(y).backward()
    assert len(str(caught.value).splitlines()) <= 3


def test_a_parameter_that_was_changed() -> None:
    layer = Linear("blocks.0.up", 4, 5, dtype="float64")
    layer.init(1)
    y = layer(leaf(3, 4))
    in_place(layer.weight)
    with pytest.raises(RuntimeError, match=r"blocks\.0\.up\.weight was changed after the forward of 'linear'"):
        F.sum(y).backward()


def test_what_nobody_needs_may_change() -> None:
    """The gradient of a sum needs no values, and a new tensor is not a change."""
    x = leaf(3, 4)
    y = x + x
    in_place(y)
    y = y * 1.0
    F.sum(y).backward()
    np.testing.assert_array_equal(x.grad, np.full((3, 4), 2.0))


def test_numbers_that_are_not_finite_are_no_change() -> None:
    x = Tensor(np.array([np.nan, np.inf]), requires_grad=True)
    F.sum(F.exp(x)).backward()


def test_without_the_mode_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug, "on", False)
    node = F.exp(leaf(3)).node
    assert node is not None and node.sums == []


@every_way
def test_no_strategy_changes_what_a_backward_needs(how: str, options: dict[str, object], mesh: dict[str, int]) -> None:
    """Debug mode also leaves every bit unchanged."""

    def program(world: Communicator) -> dict[str, np.ndarray]:
        made = trainer(small(), world, how, options, mesh)
        for number in range(2):
            made.step(batch(number))
        made.close()
        return gathered(made)

    with_the_mode = on_ranks(mesh, program)
    debug.on = False
    for found, true in zip(with_the_mode, on_ranks(mesh, program), strict=True):
        same(found, true)
