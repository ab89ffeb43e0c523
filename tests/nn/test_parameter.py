"""Parameters made from an array, and layers without a bias."""

import copy
from typing import Any

import numpy as np
import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.errors import UserError
from minitrain.nn import Linear, Module, Parameter
from minitrain.tensor import Tensor
from tests.gradcheck import close

X = np.random.default_rng(0).standard_normal((3, 4))


def test_from_an_array() -> None:
    values = np.arange(6.0).reshape(2, 3)
    p = Parameter("p", values, dtype="float64")
    assert p.dtype == np.float64 and p.shape == (2, 3) == p.placement.shape and p.initialized and p.requires_grad
    values[0, 0] = 7  # the parameter has a copy
    p.data *= 2
    assert p.data[0, 0] == 0 and (p * 1.0).sum().item() == 30
    assert p.initial_values(1).tolist() == [[0, 1, 2], [3, 4, 5]]  # the initial values
    p.store_as("float16")
    assert p.dtype == p.data.dtype == np.float16 and p.data[1, 2] == 10 and p.initial_values(1).dtype == np.float16
    assert Parameter("p", np.ones(3)).data.dtype == np.float32
    assert Parameter("p", np.arange(3)).data.tolist() == [0, 1, 2]
    assert (
        Parameter("p", np.array(2.5)).item() == 2.5
        and copy.deepcopy(p).initial_values(2).tolist() == p.initial_values(1).tolist()
    )


def test_refused() -> None:
    for values, message in (
        (np.array(["1"]), "p: values"),
        (np.ma.array([1.0], mask=[True]), "p: values"),
        ([1.0, 2.0], r"p: shape is \[1.0, 2.0\]"),
    ):
        with pytest.raises((UserError, TypeError), match=message):
            Parameter("p", values)  # type: ignore[arg-type]
    for mean, std in ((1.0, 0.0), (0.0, 0.1)):
        with pytest.raises(UserError, match=r"p: its values are an array of float64.* must be 0"):
            Parameter("p", np.ones(2), mean, std)


class Scaled(Module):
    """A module with one matrix, made from an array."""

    def __init__(self, values: np.ndarray) -> None:
        self.path, self.weight = "scaled", Parameter("scaled.weight", values, dtype=values.dtype)


def test_draw_starts_from_the_array() -> None:
    module = Scaled(X)
    module.weight.data = np.zeros_like(X)
    module.init(seed=3)
    np.testing.assert_array_equal(module.weight.data, X)


def test_without_a_bias() -> None:
    layer = Linear("layer", 4, (2, 3), std=1.0, dtype=np.float64, bias=False)
    layer.init(seed=1)
    y = layer(Tensor(X))
    assert [p.placement.path for p in layer.parameters()] == ["layer.weight"] and layer.bias is None
    np.testing.assert_allclose(y.data, np.tensordot(X, layer.weight.data, 1), rtol=1e-14)


class Two(Module):
    """A column-parallel and a row-parallel layer without biases."""

    def __init__(self) -> None:
        self.path = "two"
        self.up = Linear("two.up", 4, 5, std=0.5, dtype=np.float64, bias=False)
        self.down = Linear("two.down", 5, 4, std=0.5, dtype=np.float64, bias=False)

    def shard(self, plan: Any) -> None:
        plan.column(self.up)
        plan.row(self.down)

    def __call__(self, x: Tensor | None, batch: Any) -> Tensor:
        return self.down(self.up(Tensor(X), gelu=True)).sum()


def test_without_a_bias_in_columns_and_rows() -> None:
    from minitrain.models import Model
    from minitrain.parallel.parallelize import parallelize
    from minitrain.parallel.strategy import Strategy

    def program(world: Communicator) -> float:
        model = Model([Two()])
        parallelize(model, Mesh(world, tp=world.size), Strategy()).init(seed=1)
        return model.units[0](None, None).item()

    serial = Model([Two()])
    serial.init(seed=1)
    expected = serial.units[0](None, None).item()
    for loss in threads.run(2, program):
        assert close(loss, expected) <= 1e-13
