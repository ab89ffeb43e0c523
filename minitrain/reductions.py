"""Reductions over axes (sum, mean, var, max, min, logsumexp) and softmax, each with its derivative.

Call them as `functional.sum` and so on, or as methods: `x.sum(axis=0)`. In every docstring y is the result,
g = dL/dy and gx = dL/dx. Half precision is summed in float32. An axis out of range raises ValueError.
"""

import math
from typing import Any

import numpy as np

from . import backend
from .autograd import apply
from .backend import Array, xp
from .errors import shown
from .shapes import Axis, axes_of, axis_of, reshape
from .tensor import Tensor, operation


@operation
def sum(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """y = sum of x over `axis` (all axes by default); every element of x receives the g of its sum."""
    shape, axes = x.shape, axes_of("sum", axis, x.shape)

    def vjp(g: Array) -> tuple[Array]:
        return (xp.array(xp.broadcast_to(_keep(g, shape, axes), shape)),)

    return apply(backend.total(x.data, axes, keepdims), (x,), vjp)


@operation
def mean(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """y = sum of x / n over `axis`; gx = g / n. Raise ValueError if there are no elements."""
    shape, axes = x.shape, _some("mean", axis, x.shape)
    n = math.prod(shape[i] for i in axes)

    def vjp(g: Array) -> tuple[Array]:
        part = g * g.dtype.type(1 / n)  # bfloat16 times a Python number would be float32
        return (xp.array(xp.broadcast_to(_keep(part, shape, axes), shape)),)

    return apply(backend.mean(x.data, axes, keepdims), (x,), vjp)


@operation
def var(x: Tensor, axis: Axis = None, keepdims: bool = False, correction: int = 1) -> Tensor:
    """y = sum of (x - mean)^2 / (n - correction) over `axis`; gx = 2 g (x - mean) / (n - correction).

    The derivative through the mean vanishes, since the deviations sum to 0. correction=1 estimates the variance of the
    population that x samples, as in PyTorch; correction=0 is the variance of x itself, as in NumPy.
    Raise ValueError unless there are more than `correction` elements, TypeError for a correction other than 0 or 1.
    """
    shape, axes = x.shape, _some("var", axis, x.shape)
    if not isinstance(correction, (int, np.integer)) or isinstance(correction, bool) or correction not in (0, 1):
        raise TypeError(f"var: correction is {shown(correction)}; give 0 or 1")
    n, acc_dtype = math.prod(shape[i] for i in axes) - int(correction), backend.accumulation_dtype(x.dtype)
    if n == 0:
        raise ValueError(f"var of one element: shape {shape}, axis {axis}; with correction=0 it is 0")
    centred = x.data.astype(acc_dtype, copy=False) - xp.mean(x.data, axis=axes, keepdims=True, dtype=acc_dtype)
    y = (backend.total(centred * centred, axes, keepdims) / n).astype(x.dtype)
    centred = centred.astype(x.dtype, copy=False)

    def vjp(g: Array) -> tuple[Array]:
        return (centred * (_keep(g, shape, axes) * g.dtype.type(2 / n)),)

    return apply(y, (x,), vjp, saved=(centred,))


@operation
def max(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """y = max of x over `axis`; g goes to the largest element, split evenly among ties.

    Raise ValueError if there are no elements.
    """
    shape, axes = x.shape, _some("max", axis, x.shape)
    y = x.data.max(axis=axes, keepdims=True)
    won = x.data == y
    return apply(_drop(y, axes, keepdims), (x,), lambda g: (_to_winners(g, won, shape, axes),), saved=(won,))


@operation
def min(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """y = min of x over `axis`; g goes to the smallest element, split evenly among ties.

    Raise ValueError if there are no elements.
    """
    shape, axes = x.shape, _some("min", axis, x.shape)
    y = x.data.min(axis=axes, keepdims=True)
    won = x.data == y
    return apply(_drop(y, axes, keepdims), (x,), lambda g: (_to_winners(g, won, shape, axes),), saved=(won,))


def _to_winners(g: Array, won: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """Return gx of max and min."""
    winners = won.sum(axis=axes, keepdims=True).astype(g.dtype)
    return won * (_keep(g, shape, axes) / winners)


@operation
def logsumexp(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """y = ln sum of e^x over `axis` (all axes by default); gx = g e^(x - y), which is g softmax(x).

    The largest x is subtracted before exp and added back after ln. Raise ValueError if there are no elements.
    """
    shape, axes = x.shape, _some("logsumexp", axis, x.shape)
    most = x.data.max(axis=axes, keepdims=True)
    most = xp.where(xp.isfinite(most), most, xp.zeros_like(most))  # inf - inf is NaN
    with np.errstate(divide="ignore"):  # the logarithm of 0, where every x is -inf, is -inf
        y = most + xp.log(backend.total(xp.exp(x.data - most), axes, keepdims=True))
    return apply(_drop(y, axes, keepdims), (x,), lambda g: (_keep(g, shape, axes) * xp.exp(x.data - y),), saved=(x, y))


@operation
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """y_i = e^x_i / sum_j e^x_j along `axis`. A 0-d tensor is a row of one element: y = 1.

    dy_i/dx_j = y_i (1[i = j] - y_j), so gx = y (g - sum_j g_j y_j). Subtracting the maximum of each row first keeps
    exp from overflowing and cancels in the quotient. (The maximum of the whole tensor would not do: rows far below it
    would underflow to 0 / 0.)
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
    """y_i = x_i - ln sum_j e^x_j along `axis`; gx = g - softmax(x) sum_j g_j. A 0-d tensor gives y = 0."""
    if not x.ndim:
        return reshape(log_softmax(reshape(x, (1,)), axis), ())
    axis = axis_of("log_softmax", axis, x.shape)
    shifted = x.data - row_max(x.data, axis)
    y = shifted - xp.log(backend.total(xp.exp(shifted), axis, keepdims=True))
    return apply(y, (x,), lambda g: (g - xp.exp(y) * backend.total(g, axis, keepdims=True),), saved=(y,))


def row_max(x: Array, axis: int = -1) -> Array:
    """Return the maximum along `axis`, kept as an axis of length 1; 0 if there are no elements along it."""
    if x.shape[axis] == 0:
        return backend.total(x, axis, keepdims=True)
    return x.max(axis=axis, keepdims=True)


def softmax_rows(x: Array, axis: int = -1, out: Array | None = None) -> Array:
    """Return the softmax of a plain floating-point array along `axis`; `out` may be x itself."""
    backend.accumulation_dtype(x.dtype)  # raises unless floating point
    e = xp.subtract(x, row_max(x, axis), out=out)
    xp.exp(e, out=e)
    e /= backend.total(e, axis, keepdims=True)
    return e


def _some(operation: str, axis: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes as non-negative numbers. Raise ValueError if there are no elements along them."""
    axes = axes_of(operation, axis, shape)
    if 0 in [shape[i] for i in axes]:
        raise ValueError(f"{operation} of no elements: shape {shape}, axis {axis}")
    return axes


def _drop(y: Array, reduced: tuple[int, ...], keepdims: bool) -> Array:
    """Return y without the reduced axes, or with them, of length 1, if keepdims."""
    return y if keepdims else y.reshape(tuple(n for i, n in enumerate(y.shape) if i not in reduced))


def _keep(g: Array, shape: tuple[int, ...], reduced: tuple[int, ...]) -> Array:
    """Return g with the reduced axes restored, of length 1."""
    return g.reshape(tuple(1 if i in reduced else n for i, n in enumerate(shape)))
