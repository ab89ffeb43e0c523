"""Arithmetic and elementwise functions, each with its derivative; also the namespace of all other operations.

In every docstring y is the result, g = dL/dy the incoming gradient, and gx = dL/dx the gradient passed on.
Every operation preserves the dtype; tensors of different dtypes raise TypeError: use `cast`.
Operations on shapes are defined in shapes.py, sums and other reductions in reductions.py. Import all of them with
`from minitrain import functional as F`. Most are also operators and methods of a Tensor (operators.py).
"""

import functools
from collections.abc import Sequence
from numbers import Real
from typing import Any, TypeAlias

import numpy as np

from . import backend
from .autograd import apply
from .backend import Array, xp
from .errors import shown
from .operands import constant, is_masked, listed
from .reductions import log_softmax, logsumexp, max, mean, min, row_max, softmax, softmax_rows, sum, var
from .shapes import Axis, concatenate, index, reshape, split, squeeze, stack, transpose
from .tensor import Tensor, operation

# fmt: off
__all__ = [
    "Axis", "Operand", "abs", "add", "broadcast_to", "cast", "clip", "concatenate", "divide", "elementwise_operands",
    "exp", "index", "log", "log_softmax", "logsumexp", "matmul", "max", "maximum", "mean", "min", "minimum",
    "multiply", "negative", "operands", "power", "relu", "reshape", "row_max", "sigmoid", "softmax", "softmax_rows",
    "split", "sqrt", "squeeze", "stack", "subtract", "sum", "tanh", "transpose", "unbroadcast", "unbroadcast_both",
    "var", "where",
]
# fmt: on

Operand: TypeAlias = Tensor | Array | np.generic | float | Sequence[Any]  # the other operand of a tensor


# Arithmetic, with broadcasting ----------------------------------------------------------------------------------------


def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Return the gradient of an operand of shape `shape` that was broadcast to g's shape.

    Broadcasting repeats x along an axis. Each copy receives a part of g, and the parts add up: gx = sum over the
    copies. backend.total sums half precision in float32. The result has g's dtype.
    """
    if g.shape == shape:
        return g
    added = tuple(range(g.ndim - len(shape)))
    stretched = tuple(len(added) + axis for axis, n in enumerate(shape) if n == 1 and g.shape[len(added) + axis] != 1)
    return backend.total(g, axis=added + stretched, keepdims=True).reshape(shape)


def unbroadcast_both(ga: Array, gb: Array, a: tuple[int, ...], b: tuple[int, ...]) -> tuple[Array, Array]:
    """Return the gradients of two operands, reduced to their shapes a and b."""
    return unbroadcast(ga, a), unbroadcast(gb, b)


def _match(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Return whether shapes a and b broadcast: from the last axis backwards, lengths are equal or one of them is 1."""
    return a == b or all(n == m or 1 in (n, m) for n, m in zip(a[::-1], b[::-1], strict=False))


def operands(a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """Return both as tensors of one dtype: a number or a list of numbers takes the dtype of the other operand.

    Raise TypeError if two arrays differ in dtype (NumPy would silently compute in the wider one), if neither operand is
    a Tensor, and for anything but floating-point arrays and real numbers.
    """
    like = a if isinstance(a, Tensor) else b
    if not isinstance(like, Tensor):
        raise TypeError(f"the operands are {shown(a)} and {shown(b)}; one of them must be a Tensor")
    a, b = (x if isinstance(x, Tensor) else Tensor(constant("operand", x, like.dtype)) for x in (a, b))
    if a.dtype != b.dtype:
        raise TypeError(f"operands are {a.dtype} and {b.dtype}; cast one of them: minitrain.functional.cast(x, dtype)")
    return a, b


def elementwise_operands(a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """Return both as `operands` does. Raise ValueError if their shapes do not broadcast."""
    a, b = operands(a, b)
    if not _match(a.shape, b.shape):
        raise ValueError(
            f"the operands have the shapes {a.shape} and {b.shape}, which do not broadcast: from the last axis "
            "backwards, lengths must be equal, or one of them 1; reshape an operand"
        )
    return a, b


@operation
def broadcast_to(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat x along new leading axes and along axes of length 1, in a new array; gx = the sum over the copies.

    Raise ValueError if x cannot be broadcast to the shape.
    """
    before = x.shape
    try:
        y = xp.array(xp.broadcast_to(x.data, shape))
    except (TypeError, ValueError) as error:
        raise type(error)(f"broadcast_to: from shape {before} to {shown(shape)}: {error}") from None
    return apply(y, (x,), lambda g: (unbroadcast(g, before),))


def add(a: Any, b: Any) -> Tensor:
    """y = a + b, with broadcasting; ga = g, gb = g."""
    a, b = elementwise_operands(a, b)
    a_shape, b_shape = a.shape, b.shape
    return apply(a.data + b.data, (a, b), lambda g: unbroadcast_both(g, g, a_shape, b_shape))


def subtract(a: Any, b: Any) -> Tensor:
    """y = a - b; ga = g, gb = -g."""
    a, b = elementwise_operands(a, b)
    a_shape, b_shape = a.shape, b.shape
    return apply(a.data - b.data, (a, b), lambda g: unbroadcast_both(g, -g, a_shape, b_shape))


def multiply(a: Any, b: Any) -> Tensor:
    """y = a b; ga = g b, gb = g a."""
    a, b = elementwise_operands(a, b)

    def vjp(g: Array) -> tuple[Array, Array]:
        return unbroadcast_both(g * b.data, g * a.data, a.shape, b.shape)

    return apply(a.data * b.data, (a, b), vjp, saved=(a, b))


def divide(a: Any, b: Any) -> Tensor:
    """y = a / b; ga = g / b, gb = -g a / b^2."""
    a, b = elementwise_operands(a, b)

    def vjp(g: Array) -> tuple[Array, Array]:
        ga = g / b.data
        return unbroadcast_both(ga, -ga * a.data / b.data, a.shape, b.shape)

    return apply(a.data / b.data, (a, b), vjp, saved=(a, b))


def power(a: Any, b: Any) -> Tensor:
    """y = a^b; ga = g b a^(b-1), which is 0 for b = 0; gb = g y ln a, which is 0 for a = 0."""
    if isinstance(a, Tensor) and type(b) in (int, float) and b in (2, 3, 4):  # x * x * x is 90 times faster
        below = functools.reduce(xp.multiply, [a.data] * int(b - 1))
        return apply(below * a.data, (a,), lambda g: (g * below * int(b),), saved=(below,))
    a, b = elementwise_operands(a, b)
    y = xp.power(a.data, b.data)

    def vjp_a(g: Array) -> Array:
        base = xp.where(b.data == 0, xp.ones_like(a.data), a.data)  # 0 times 0^-1 would be NaN
        return unbroadcast(g * (b.data * xp.power(base, b.data - 1)), a.shape)

    def vjp(g: Array) -> tuple[Array, Array]:
        logarithm = xp.log(xp.where(a.data == 0, xp.ones_like(a.data), a.data))
        return vjp_a(g), unbroadcast(g * y * logarithm, b.shape)

    if not b.requires_grad:  # b is nearly always a number
        return apply(y, (a,), lambda g: (vjp_a(g),), saved=(a, b))
    return apply(y, (a, b), vjp, saved=(a, b, y))


def maximum(a: Any, b: Any) -> Tensor:
    """y = max(a, b) elementwise; g goes to the larger one, or half to each if they are equal."""
    a, b = elementwise_operands(a, b)
    won, equal, a_shape, b_shape = a.data > b.data, a.data == b.data, a.shape, b.shape
    y = xp.maximum(a.data, b.data)
    return apply(y, (a, b), lambda g: _to_winners(g, won, equal, a_shape, b_shape), saved=(won, equal))


def minimum(a: Any, b: Any) -> Tensor:
    """y = min(a, b) elementwise; g goes to the smaller one, or half to each if they are equal."""
    a, b = elementwise_operands(a, b)
    won, equal, a_shape, b_shape = a.data < b.data, a.data == b.data, a.shape, b.shape
    y = xp.minimum(a.data, b.data)
    return apply(y, (a, b), lambda g: _to_winners(g, won, equal, a_shape, b_shape), saved=(won, equal))


def _to_winners(g: Array, won: Array, equal: Array, a: tuple[int, ...], b: tuple[int, ...]) -> tuple[Array, Array]:
    """Return ga and gb of maximum and minimum. won: where a is selected; a, b: the shapes."""
    ga = xp.where(equal, g / 2, g * won)
    return unbroadcast_both(ga, g - ga, a, b)


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """y = a where the condition holds, otherwise b; ga = g there, gb = g elsewhere. All three are broadcast.

    condition: a boolean, or an array or list of booleans, such as `x > 0` returns. Raise TypeError for anything else,
    ValueError for shapes that do not broadcast.
    """
    a, b = elementwise_operands(a, b)
    held = listed(condition)
    held = np.asarray(held) if isinstance(held, (bool, np.bool_)) else held
    if not isinstance(held, (np.ndarray, xp.ndarray)) or is_masked(held) or held.dtype != bool:
        raise TypeError(f"where: the condition is {shown(condition)}; give booleans, such as x.data > 0")
    held, a_shape, b_shape = xp.asarray(held), a.shape, b.shape
    if not (_match(held.shape, a_shape) and _match(held.shape, b_shape)):
        raise ValueError(
            f"where: the shapes are {a_shape}, {b_shape} and the condition {held.shape}, which do not broadcast"
        )

    def vjp(g: Array) -> tuple[Array, Array]:
        nothing = xp.zeros_like(g)
        return unbroadcast_both(xp.where(held, g, nothing), xp.where(held, nothing, g), a_shape, b_shape)

    return apply(xp.where(held, a.data, b.data), (a, b), vjp, saved=(held,))


@operation
def negative(x: Tensor) -> Tensor:
    """y = -x; gx = -g."""
    return apply(-x.data, (x,), lambda g: (-g,))


def matmul(a: Any, b: Any) -> Tensor:
    """y = a b, (..., n, k) (..., k, m) -> (..., n, m); leading axes broadcast.

    y_nm = sum_k a_nk b_km, so dL/da_nk = sum_m g_nm b_km: ga = g b^T, and likewise gb = a^T g.
    backend.matmul multiplies and counts FLOPs. Raise ValueError for operands with fewer than two axes or with shapes
    that do not match, TypeError for different dtypes (see `operands`).
    """
    a, b = operands(a, b)
    if a.ndim < 2 or b.ndim < 2:
        raise ValueError(f"matmul needs at least two axes, got shapes {a.shape} and {b.shape}; reshape first")
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(f"matmul: the shapes are {a.shape} and {b.shape}; a's last axis and b's second-to-last differ")
    if not _match(a.shape[:-2], b.shape[:-2]):
        raise ValueError(f"matmul: the shapes are {a.shape} and {b.shape}; the leading axes do not broadcast")

    def vjp(g: Array) -> tuple[Array, Array]:
        ga = backend.matmul(g, b.data.swapaxes(-1, -2))
        gb = backend.matmul(a.data.swapaxes(-1, -2), g)
        return unbroadcast_both(ga, gb, a.shape, b.shape)

    return apply(backend.matmul(a.data, b.data), (a, b), vjp, saved=(a, b))


# Elementwise functions ------------------------------------------------------------------------------------------------


@operation
def relu(x: Tensor) -> Tensor:
    """y = max(x, 0); gx = g where x > 0, otherwise 0."""
    y = xp.maximum(x.data, 0)
    return apply(y, (x,), lambda g: (g * (y > 0),), saved=(y,))


@operation
def tanh(x: Tensor) -> Tensor:
    """y = tanh(x); gx = g (1 - y^2)."""
    y = xp.tanh(x.data)
    return apply(y, (x,), lambda g: (g * (1 - y * y),), saved=(y,))


@operation
def exp(x: Tensor) -> Tensor:
    """y = e^x; gx = g y."""
    y = xp.exp(x.data)
    return apply(y, (x,), lambda g: (g * y,), saved=(y,))


@operation
def log(x: Tensor) -> Tensor:
    """y = ln x; gx = g / x."""
    return apply(xp.log(x.data), (x,), lambda g: (g / x.data,), saved=(x,))


@operation
def sqrt(x: Tensor) -> Tensor:
    """y = sqrt(x); gx = g / 2y."""
    y = xp.sqrt(x.data)
    return apply(y, (x,), lambda g: (g / (2 * y),), saved=(y,))


@operation
def abs(x: Tensor) -> Tensor:
    """y = |x|; gx = g sign(x), which is 0 at 0."""
    return apply(xp.absolute(x.data), (x,), lambda g: (g * xp.sign(x.data),), saved=(x,))


@operation
def sigmoid(x: Tensor) -> Tensor:
    """y = 1 / (1 + e^-x); gx = g y (1 - y). Computed from e^-|x|, which cannot overflow."""
    e = xp.exp(-xp.absolute(x.data))
    y = xp.where(x.data >= 0, xp.ones_like(e), e) / (1 + e)
    return apply(y, (x,), lambda g: (g * y * (1 - y),), saved=(y,))


@operation
def clip(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """y = min(max(x, low), high), without a bound that is None; gx = g where x is within the bounds, otherwise 0.

    Raise ValueError if both bounds are None or low > high, TypeError for a bound that is not a number.
    """
    bounds = [_bound(x, n, end) for n, end in ((low, -np.inf), (high, np.inf))]
    if low is None and high is None:
        raise ValueError("clip: low and high are None; give a number for one of them")
    if not bounds[0] <= bounds[1]:  # false for NaN
        raise ValueError(f"clip: low is {shown(low)}, high is {shown(high)}; low must be a number, at most high")
    inside = (x.data >= bounds[0]) & (x.data <= bounds[1])
    return apply(xp.minimum(xp.maximum(x.data, bounds[0]), bounds[1]), (x,), lambda g: (g * inside,), saved=(inside,))


def _bound(x: Tensor, given: Any, end: float) -> Array:
    """Return a bound in x's dtype, `end` for None. Raise TypeError for anything but a number or None."""
    if given is not None and (not isinstance(given, Real) or isinstance(given, bool)):
        raise TypeError(f"clip: a bound is {shown(given)}; give a number, or None for no bound")
    return constant("clip: a bound", end if given is None else given, x.dtype)


@operation
def cast(x: Tensor, dtype: Any) -> Tensor:
    """y = x in another dtype; gx = g in x's dtype. Raise TypeError for a dtype that is not floating point."""
    if not backend.is_float(dtype):
        raise TypeError(f"cast: dtype is {shown(dtype)}; tensors are floating point: give {backend.FLOAT_NAMES}")
    before = x.dtype
    return apply(x.data.astype(dtype), (x,), lambda g: (g.astype(before),))
