"""A user's own layer and optimizer (outside.py) are right, and train under every strategy like the library's own."""

import ast
import math
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest

import minitrain as mt
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.train.checkpoint import gather
from tests import outside
from tests.equivalence.harness import difference
from tests.gradcheck import Operation, Shape, agrees_with_torch, cases, gradcheck
from tests.tiers import full

BOUND = 1e-12
STEPS = 4

# name -> (axes of the mesh, the strategy)
PLACES: dict[str, tuple[dict[str, int], mt.Strategy]] = {
    "dp 2": ({"dp": 2}, mt.Strategy()),
    "zero1": ({"dp": 3}, mt.Strategy(zero=1)),
    "zero3": ({"dp": 3}, mt.Strategy(zero=3)),
    "tp 2": ({"tp": 2}, mt.Strategy()),
    "sp 2": ({"tp": 2}, mt.Strategy(sp=True)),
    "dp 2 pp 2 tp 2 zero1": ({"dp": 2, "pp": 2, "tp": 2}, mt.Strategy(zero=1)),
}
FIRST = ("dp 2", "zero1", "zero3", "tp 2", "sp 2")
RMS_NORM = Operation(
    "rms_norm",
    outside.rms_norm,
    lambda t, x, w: t.nn.functional.rms_norm(x, x.shape[-1:], w, 1e-5),
    [((2, 3, 5), (5,)), ((4, 1), (1,)), ((7,), (7,)), ((0, 3), (3,))],
)


def test_only_the_package_is_imported() -> None:
    tree = ast.parse(Path(outside.__file__).read_text("utf-8"))
    assert {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names} == {
        "minitrain",
        "numpy",
    }
    assert {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} <= {"collections.abc", "typing"}


@cases([RMS_NORM])
def test_gradient(row: Operation, shapes: tuple[Shape, ...]) -> None:
    gradcheck(row.ours, *row.draw(shapes))


@cases([RMS_NORM])
def test_torch(row: Operation, shapes: tuple[Shape, ...]) -> None:
    agrees_with_torch(row, shapes)


def test_the_layer() -> None:
    layer, x = outside.RMSNorm("norm", 3, "float64"), np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    layer.weight.data = w = np.array([1.0, -2.0, 3.0])
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w
    np.testing.assert_allclose(layer(mt.Tensor(x)).data, expected, rtol=1e-15)


def test_the_optimizer() -> None:
    """Each element moves by Chen et al.'s rule, written here on whole arrays; a bias does not decay."""
    draw = np.random.default_rng(1).standard_normal
    for decay in (True, False):
        w, m = draw((2, 3)), np.zeros((2, 3))
        p = mt.Parameter("p", w, dtype="float64", decay=decay)
        optimizer = outside.Lion([p], beta1=0.8, beta2=0.9, weight_decay=0.1)
        for lr in (0.5, 0.25, 0.125):
            p.grad = g = draw((2, 3))
            optimizer.step(lr)
            w = w - lr * (np.sign(0.8 * m + 0.2 * g) + 0.1 * decay * w)
            m = 0.9 * m + 0.1 * g
            np.testing.assert_allclose(p.data, w, rtol=1e-14)


def train(world: Communicator, place: str = "") -> tuple[list[float], dict[str, np.ndarray]]:
    """Return the losses of a few updates and the parameters after them."""
    axes, strategy = PLACES[place] if place else ({}, mt.Strategy())
    loader = mt.TextLoader(np.random.default_rng(1).integers(0, 11, 200), context=5, batch=7, seed=1)
    trainer = mt.Trainer(
        outside.make_model(),
        world,
        optimizer=partial(outside.Lion, weight_decay=0.1),
        schedule=0.01,
        mesh=mt.Mesh(world, **axes),
        strategy=strategy,
        accumulate=2 if "pp" in axes else 1,
    )
    losses = [trainer.step(loader.batch(number)).loss for number in range(STEPS)]
    return losses, gather(trainer.model, world, reducer=trainer.reducer)


@cache
def serial() -> tuple[list[float], dict[str, np.ndarray]]:
    return train(threads.world_of_one())


@pytest.mark.parametrize("place", [place if place in FIRST else full(place) for place in PLACES])
def test_ranks_train_as_one_process(place: str) -> None:
    losses, parameters = serial()
    assert losses[-1] < losses[0]
    ranks = math.prod(PLACES[place][0].values())
    for found in threads.run(ranks, lambda world: train(world, place), timeout=60):
        np.testing.assert_allclose(found[0], losses, rtol=BOUND)
        assert difference(found[1], parameters) <= BOUND


def test_half_precision() -> None:
    """`cast_input` lets a policy choose the layer's dtype."""
    losses = []
    for precision in (None, mt.StaticPolicy("mixed_float16"), mt.StaticPolicy("mixed_bfloat16", {"*.norm": "float32"})):
        loader = mt.TextLoader(np.arange(200) % 11, context=5, batch=7, seed=1)
        model = outside.make_model("float32")
        trainer = mt.Trainer(model, threads.world_of_one(), optimizer=outside.Lion, schedule=0.01, precision=precision)
        losses.append([trainer.step(loader.batch(number)).loss for number in range(STEPS)])
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=0.02)
    assert losses[1] != losses[0] != losses[2]
