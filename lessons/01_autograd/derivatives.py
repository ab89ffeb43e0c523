"""Derivatives by differences: for every operation of the library, and how precise they are."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from types import FunctionType

import numpy as np

from minitrain import functional as F
from minitrain import fused
from minitrain.backend import Array
from minitrain.tensor import Tensor

IDS = np.array([[0, 2, 1], [2, 2, 0]])
ONE = (
    *(F.negative, F.relu, F.tanh, F.sigmoid, F.exp, F.abs, F.sum, F.mean, F.var, F.max, F.min),
    *(F.logsumexp, F.softmax, F.log_softmax, F.transpose, F.squeeze, fused.gelu),
)
TWO = (F.add, F.subtract, F.multiply, F.divide, F.maximum, F.minimum)
OPERATIONS: list[tuple] = [  # a function, and the shapes of its operands
    *((f, (2, 3)) for f in ONE),
    *((f, (2, 1, 3), (4, 1)) for f in TWO),
    (F.matmul, (4, 2, 3), (3, 5)),
    (lambda x: F.log(x * x), (2, 3)),
    (lambda x: F.sqrt(x * x), (2, 3)),
    (lambda x, y: F.power(x * x, y), (2, 3), (3,)),
    (partial(F.where, IDS > 0), (2, 3), (3,)),
    (partial(F.clip, low=-1, high=1), (2, 3)),
    (partial(F.broadcast_to, shape=(2, 2, 3)), (2, 3)),
    (partial(F.cast, dtype="float64"), (2, 3)),
    (partial(F.reshape, shape=(3, 2)), (2, 3)),
    (partial(F.index, item=[0, 1, 1]), (2, 3)),
    (lambda *x: F.concatenate(x), (2, 3), (1, 3)),
    (lambda *x: F.stack(x), (2, 3), (2, 3)),
    (fused.linear, (2, 3), (3, 4), (4,)),
    (partial(fused.linear, gelu=True), (2, 3), (3, 4), (4,)),
    (fused.linear_transposed, (2, 3), (4, 3)),
    (fused.add_bias, (2, 3), (3,)),
    (partial(fused.embedding, IDS), (3, 2)),
    (fused.layer_norm, (2, 3), (3,), (3,)),
    (partial(fused.gelu, approximate="none"), (2, 3)),
    (fused.attention, (2, 3, 4), (2, 5, 4), (2, 5, 2)),
    (fused.causal_attention, (2, 5, 3, 2, 3)),
    (partial(fused.cross_entropy, labels=IDS, denominator=6), (2, 3, 4)),
    (partial(fused.mean_squared_error, target=np.ones((2, 3)), denominator=6), (2, 3)),
    (partial(fused.dropout, keep=IDS > 0, p=0.5), (2, 3)),
]


def differences(f: Callable[[], float], x: Array, h: float) -> Array:
    """Return (f at x + h minus f at x - h) / 2h for each element of x. f takes no argument and reads x."""
    found = np.empty_like(x)
    for i in np.ndindex(x.shape):
        here = x[i]
        x[i] = here + h
        above = f()
        x[i] = here - h
        found[i] = (above - f()) / (2 * h)
        x[i] = here
    return found


def gradient_check(operation: Callable[..., Tensor], *shapes: tuple[int, ...]) -> tuple[str, float]:
    """Return the operation's name on the tape, and how far its gradients are from differences.

    For L = sum(g y) with random g; relative to the largest gradient of an operand, or to 1 if that is larger.
    """
    draw = np.random.default_rng(1)
    arrays = [draw.uniform(0.5, 2, shape) * draw.choice([-1, 1], shape) for shape in shapes]
    leaves = [Tensor(x.copy(), requires_grad=True) for x in arrays]
    y = operation(*leaves)
    assert y.node is not None
    name, g, worst = y.node.operation, draw.normal(size=y.shape), 0.0
    y.backward(g)
    for x, leaf in zip(arrays, leaves, strict=True):
        slopes = differences(lambda: float((g * operation(*map(Tensor, arrays)).data).sum()), x, 1e-5)
        worst = max(worst, float(np.abs(slopes - leaf.grad).max() / max(1, np.abs(slopes).max())))
    return name, worst


def names() -> set[str]:
    """Return the names of the library's operations: its public functions that return a tensor."""
    found = set()
    for file in ("functional", "shapes", "reductions", "fused", "attention", "gelu", "losses"):
        module = import_module(f"minitrain.{file}")
        for name, f in vars(module).items():
            own = isinstance(f, FunctionType) and f.__module__ == module.__name__ and not name.startswith("_")
            if own and f.__annotations__["return"] is Tensor:
                found.add(name)
    return found


# How precise a difference is ------------------------------------------------------------------------------------------

Curve = tuple[list[float], list[float], list[float]]  # the steps h; the error at each; its bound
F_MAX, F_THIRD = 1.5**3, 6.0  # the largest f, and f''', of the function in `errors`


def errors(dtype: type, steps: int) -> Curve:
    """Return the largest error of (f(x + h) - f(x - h)) / 2h for f = x x x, over 51 points x from 1 to 1.5.

    It uses only + - * /, and h is a power of two, so every machine finds the same digits. x + h is exact while
    h is at least the spacing of the numbers from 1 to 2, so only f is rounded.
    """
    x = Tensor(np.linspace(1, 1.5, 51), requires_grad=True, dtype=dtype)
    f = lambda x: x * x * x
    f(x).backward(np.ones_like(x.data))
    hs, measured, eps = [2.0**-k for k in range(steps)], [], float(np.finfo(dtype).eps)
    for h in map(dtype, hs):
        slopes = (f(Tensor(x.data + h)).data - f(Tensor(x.data - h)).data) / (2 * h)
        measured.append(float(np.abs(slopes - x.grad).max()))
    return hs, measured, [h**2 / 6 * F_THIRD + eps / h * F_MAX for h in hs]


def best_step(dtype: str) -> tuple[float, float]:
    """Return the h that minimizes the bound, where h f''' / 3 = eps f / h^2, and the bound there."""
    h = float((3 * np.finfo(dtype).eps * F_MAX / F_THIRD) ** (1 / 3))
    return h, h**2 / 2 * F_THIRD
