"""Operations that make one number of many: sums, means, the largest, softmax, each beside its derivative.

Users call them as `functional.sum` and so on, or as methods: `x.sum(axis=0)`. In every docstring y is the result,
g = dL/dy and gx = dL/dx. Sums of half precision are made in float32.
"""

import math
from typing import Any

import numpy as np

from . import backend
from .autograd import Tensor, apply, operation
from .backend import Array, xp
from .errors import shown
from .shapes import Axis, axes_of, axis_of, reshape


@operation
def sum(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """y = sum of x over `axis` (all axes by default); every element of x gets the g of its sum."""
    shape, axes = x.shape, axes_of("sum", axis, x.shape)

    def vjp(g: Array) -> tuple[Array]:
        return (xp.array(xp.broadcast_to(_keep(g, shape, axes), shape)),)

    return apply(backend.total(x.data, axes, keepdims), (x,), vjp)


@operation
def mean(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """y = sum of x / n over `axis`; gx = g / n. Raises ValueError for the mean of nothing."""
    shape, axes = x.shape, _some("mean", axis, x.shape)
    n = math.prod(shape[i] for i in axes)

    def vjp(g: Array) -> tuple[Array]:
        part = g * g.dtype.type(1 / n)  # bfloat16 times a Python number would be float32
        return (xp.array(xp.broadcast_to(_keep(part, shape, axes), shape)),)

    return apply(backend.mean(x.data, axes, keepdims), (x,), vjp)


@operation
def var(x: Tensor, axis: Axis = None, keepdims: bool = False, correction: int = 1) -> Tensor:
    """y = sum of (x - mean)^2 / (n - correction) over `axis`; gx = 2 g (x - mean) / (n - correction).

    The mean's own derivative drops out, since the differences from it add up to 0. correction=1 estimates the variance
    of what x is a sample of, as in PyTorch; correction=0 is the variance of x itself, as in NumPy.
    Raises ValueError unless there are more than `correction` elements, TypeError for a correction that is not 0 or 1.
    """
    shape, axes = x.shape, _some("var", axis, x.shape)
    if not isinstance(correction, (int, np.integer)) or isinstance(correction, bool) or correction not in (0, 1):
        raise TypeError(f"var: correction is {shown(correction)}; give 0 or 1")
    n, wide = math.prod(shape[i] for i in axes) - int(correction), backend.wide(x.dtype)
    if n == 0:
        raise ValueError(f"var of one element: shape {shape}, axis {axis}; with correction=0 it is 0")
    centred = x.data.astype(wide, copy=False) - xp.mean(x.data, axis=axes, keepdims=True, dtype=wide)
    y = (backend.total(centred * centred, axes, keepdims) / n).astype(x.dtype)
    centred = centred.astype(x.dtype, copy=False)

    def vjp(g: Array) -> tuple[Array]:
        return (centred * (_keep(g, shape, axes) * g.dtype.type(2 / n)),)

    return apply(y, (x,), vjp, saved=(centred,))


@operation
def max(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """y = the largest of x over `axis`; g goes to the element that won, in equal parts to equal winners.

    Raises ValueError for the largest of nothing.
    """
    shape, axes = x.shape, _some("max", axis, x.shape)
    y = x.data.max(axis=axes, keepdims=True)
    won = x.data == y
    return apply(_drop(y, axes, keepdims), (x,), lambda g: (_to_winners(g, won, shape, axes),), saved=(won,))


@operation
def min(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """y = the smallest of x over `axis`; g goes to the element that won, in equal parts to equal winners.

    Raises ValueError for the smallest of nothing.
    """
    shape, axes = x.shape, _some("min", axis, x.shape)
    y = x.data.min(axis=axes, keepdims=True)
    won = x.data == y
    return apply(_drop(y, axes, keepdims), (x,), lambda g: (_to_winners(g, won, shape, axes),), saved=(won,))


def _to_winners(g: Array, won: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """gx of max and min."""
    winners = won.sum(axis=axes, keepdims=True).astype(g.dtype)
    return won * (_keep(g, shape, axes) / winners)


@operation
def logsumexp(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """y = ln sum of e^x over `axis` (all axes by default); gx = g e^(x - y), which is g softmax(x).

    The largest x is subtracted first, and added again to the logarithm. Raises ValueError for no elements.
    """
    shape, axes = x.shape, _some("logsumexp", axis, x.shape)
    most = x.data.max(axis=axes, keepdims=True)
    most = xp.where(xp.isfinite(most), most, xp.zeros_like(most))  # inf - inf is NaN
    with np.errstate(divide="ignore"):  # the logarithm of 0, where every x is -inf, is -inf
        y = most + xp.log(backend.total(xp.exp(x.data - most), axes, keepdims=True))
    return apply(_drop(y, axes, keepdims), (x,), lambda g: (_keep(g, shape, axes) * xp.exp(x.data - y),), saved=(x, y))


@operation
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """y_i = e^x_i / sum_j e^x_j along `axis`. A tensor without axes is a row of one: y = 1.

    dy_i/dx_j = y_i (1[i = j] - y_j), so gx = y (g - sum_j g_j y_j). The maximum of each row is subtracted first: it
    cancels in the quotient, and no exponent is above 0. (The maximum of the whole tensor would not do: rows far
    below it would underflow to 0 / 0.)
    """
    if not x.ndim:
        return reshape(softmax(reshape(x, (1,)), axis), ())
    axis = axis_of("softmax", axis, x.shape)
    y = softmax_rows(x.data, axis)

    def vjp(g: Array) -> tuple[Array]:
        return (y * (g - backend.total(g * y, axis, keepdims=True)),)

    return apply(y, (x,), vjp, saved=(y,))


@operation
def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """y_i = x_i - ln sum_j e^x_j along `axis`; gx = g - softmax(x) sum_j g_j. Without axes, y = 0."""
    if not x.ndim:
        return reshape(log_softmax(reshape(x, (1,)), axis), ())
    axis = axis_of("log_softmax", axis, x.shape)
    shifted = x.data - row_max(x.data, axis)
    y = shifted - xp.log(backend.total(xp.exp(shifted), axis, keepdims=True))
    return apply(y, (x,), lambda g: (g - xp.exp(y) * backend.total(g, axis, keepdims=True),), saved=(y,))


def row_max(x: Array, axis: int = -1) -> Array:
    """The maximum along `axis`, kept as an axis of length 1; 0 where there is nothing to compare."""
    if x.shape[axis] == 0:
        return backend.total(x, axis, keepdims=True)
    return x.max(axis=axis, keepdims=True)


def softmax_rows(x: Array, axis: int = -1, out: Array | None = None) -> Array:
    """softmax on plain arrays of floating point; `out` may be x itself."""
    backend.wide(x.dtype)  # refuses any other
    e = xp.subtract(x, row_max(x, axis), out=out)
    xp.exp(e, out=e)
    e /= backend.total(e, axis, keepdims=True)
    return e


def _some(operation: str, axis: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes counted from the front. Raises ValueError when there is no element along them."""
    axes = axes_of(operation, axis, shape)
    if 0 in [shape[i] for i in axes]:
        raise ValueError(f"{operation} of no elements: shape {shape}, axis {axis}")
    return axes


def _drop(y: Array, reduced: tuple[int, ...], keepdims: bool) -> Array:
    """y without the axes that were reduced to length 1, or with them."""
    return y if keepdims else y.reshape(tuple(n for i, n in enumerate(y.shape) if i not in reduced))


def _keep(g: Array, shape: tuple[int, ...], reduced: tuple[int, ...]) -> Array:
    """g with the axes that were reduced away put back, of length 1."""
    return g.reshape(tuple(1 if i in reduced else n for i, n in enumerate(shape)))
