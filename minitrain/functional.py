"""Arithmetic, shapes and reductions, each beside its derivative.

In every docstring y is the result, g = dL/dy is the gradient that arrives, and gx = dL/dx is what is passed on.
Every operation returns the dtype it was given; two tensors of different dtypes are refused: write `cast`.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import backend
from .autograd import Tensor, apply, check_tensors, operation
from .backend import Array, xp
from .errors import shown

Axis = int | Sequence[int] | None


# Arithmetic, with broadcasting ----------------------------------------------------------------------------------------


def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of an operand of shape `shape` that was broadcast to g's shape.

    Broadcasting repeats x along an axis; each copy gets its part of g, and the parts add up: gx = sum over the copies.
    backend.total adds them up, float16 in float32. The result has g's dtype.
    """
    if g.shape == shape:
        return g
    added = tuple(range(g.ndim - len(shape)))
    stretched = tuple(len(added) + axis for axis, n in enumerate(shape) if n == 1 and g.shape[len(added) + axis] != 1)
    return backend.total(g, axis=added + stretched, keepdims=True).reshape(shape)


def unbroadcast_both(ga: Array, gb: Array, a: tuple[int, ...], b: tuple[int, ...]) -> tuple[Array, Array]:
    """The gradients of two operands of the shapes a and b, each in the shape of its own."""
    return unbroadcast(ga, a), unbroadcast(gb, b)


def operands(a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """Both as tensors of one dtype: a number or a list of numbers takes the dtype of the other operand.

    Raises TypeError when two arrays differ in dtype: NumPy would silently compute in the wider one. Raises it as well
    for arrays that are not floating point, and for what is not a real number.
    """
    like = a if isinstance(a, Tensor) else b
    if not isinstance(like, Tensor):
        raise TypeError(f"the operands are {shown(a)} and {shown(b)}; one of them must be a Tensor")
    a, b = (x if isinstance(x, Tensor) else Tensor(backend.constant("operand", x, like.dtype)) for x in (a, b))
    if a.dtype != b.dtype:
        raise TypeError(f"operands are {a.dtype} and {b.dtype}; cast one of them: minitrain.functional.cast(x, dtype)")
    return a, b


def add(a: Any, b: Any) -> Tensor:
    """y = a + b; ga = g, gb = g."""
    a, b = operands(a, b)
    a_shape, b_shape = a.shape, b.shape
    return apply(a.data + b.data, (a, b), lambda g: unbroadcast_both(g, g, a_shape, b_shape))


def subtract(a: Any, b: Any) -> Tensor:
    """y = a - b; ga = g, gb = -g."""
    a, b = operands(a, b)
    a_shape, b_shape = a.shape, b.shape
    return apply(a.data - b.data, (a, b), lambda g: unbroadcast_both(g, -g, a_shape, b_shape))


def multiply(a: Any, b: Any) -> Tensor:
    """y = a b; ga = g b, gb = g a."""
    a, b = operands(a, b)

    def vjp(g: Array) -> tuple[Array, Array]:
        return unbroadcast_both(g * b.data, g * a.data, a.shape, b.shape)

    return apply(a.data * b.data, (a, b), vjp, saved=(a, b))


def divide(a: Any, b: Any) -> Tensor:
    """y = a / b; ga = g / b, gb = -g a / b^2."""
    a, b = operands(a, b)

    def vjp(g: Array) -> tuple[Array, Array]:
        ga = g / b.data
        return unbroadcast_both(ga, -ga * a.data / b.data, a.shape, b.shape)

    return apply(a.data / b.data, (a, b), vjp, saved=(a, b))


@operation
def negative(x: Tensor) -> Tensor:
    """y = -x; gx = -g."""
    return apply(-x.data, (x,), lambda g: (-g,))


def matmul(a: Any, b: Any) -> Tensor:
    """y = a b, (..., n, k) (..., k, m) -> (..., n, m); leading axes broadcast.

    y_nm = sum_k a_nk b_km, so dL/da_nk = sum_m g_nm b_km: ga = g b^T, and likewise gb = a^T g.
    backend.matmul multiplies, and counts. Raises ValueError for operands of fewer than two axes, TypeError for those of
    two dtypes (see `operands`).
    """
    a, b = operands(a, b)
    if a.ndim < 2 or b.ndim < 2:
        raise ValueError(f"matmul needs at least two axes, got shapes {a.shape} and {b.shape}; reshape first")
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(f"matmul: the shapes are {a.shape} and {b.shape}; a's last axis and b's last but one differ")

    def vjp(g: Array) -> tuple[Array, Array]:
        ga = backend.matmul(g, b.data.swapaxes(-1, -2))
        gb = backend.matmul(a.data.swapaxes(-1, -2), g)
        return unbroadcast_both(ga, gb, a.shape, b.shape)

    return apply(backend.matmul(a.data, b.data), (a, b), vjp, saved=(a, b))


# One element at a time ------------------------------------------------------------------------------------------------


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
def cast(x: Tensor, dtype: Any) -> Tensor:
    """y = x in another dtype; gx = g in x's dtype. Raises TypeError for a dtype that is not floating point."""
    if not backend.is_float(dtype):
        raise TypeError(f"cast: dtype is {shown(dtype)}; tensors are floating point: give {backend.FLOAT_NAMES}")
    before = x.dtype
    return apply(x.data.astype(dtype), (x,), lambda g: (g.astype(before),))


# Shapes ---------------------------------------------------------------------------------------------------------------


@operation
def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same elements in another shape; gx is g in the old one. Raises ValueError if they do not fit."""
    before = x.shape
    try:
        y = x.data.reshape(shape)
    except (TypeError, ValueError) as error:
        raise type(error)(f"reshape: from shape {before} to {shown(shape)}: {error}") from None
    return apply(y, (x,), lambda g: (g.reshape(before),))


@operation
def transpose(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """Axis i of y is axis axes[i] of x (reversed order by default); gx is g with the axes put back.

    Raises ValueError unless each axis of x stands among the axes once.
    """
    axes = _axes("transpose", tuple(reversed(range(x.ndim))) if axes is None else axes, x.shape)
    if len(axes) != x.ndim:
        raise ValueError(f"transpose: axes is {shown(axes)}; a tensor of shape {x.shape} needs all of its axes")
    back = tuple(int(i) for i in np.argsort(axes))
    return apply(x.data.transpose(axes), (x,), lambda g: (g.transpose(back),))


@operation
def index(x: Tensor, item: Any) -> Tensor:
    """y = x[item]; gx is zero but for gx[item] += g (an element that was taken twice gets two parts).

    Raises IndexError for an item that is not there, TypeError for a Tensor or a masked array as the item.
    """
    shape, dtype = x.shape, x.dtype
    parts = item if isinstance(item, tuple) else (item,)
    for part in parts:
        if isinstance(part, Tensor) or backend.is_masked(part):
            raise TypeError(f"index: the item is {shown(part)}; give an array of whole numbers or of booleans")
    try:
        y = x.data[item]
    except IndexError as error:
        raise IndexError(f"index: the item is {shown(item)}, the tensor has shape {shape}: {error}") from None
    basic = all(isinstance(part, (int, slice, type(None), type(Ellipsis))) for part in parts)

    def vjp(g: Array) -> tuple[Array]:
        gx = xp.empty(shape, dtype)
        if basic:
            gx[...] = 0
            gx[item] = g
        else:
            backend.scatter_add(gx, item, g)
        return (gx,)

    kept = tuple(part for part in parts if not basic and hasattr(part, "nbytes"))
    return apply(y, (x,), vjp, saved=kept)


def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """The tensors one behind the other along `axis`; each gets its own piece of g.

    Raises ValueError for an empty list or an axis that is not there, TypeError for different dtypes.
    """
    check_tensors("concatenate", tensors)
    if not tensors:
        raise ValueError("concatenate needs at least one tensor")
    if len({x.dtype for x in tensors}) > 1:
        raise TypeError(f"concatenate: dtypes differ: {[str(x.dtype) for x in tensors]}")
    borders = np.cumsum([x.shape[_axis("concatenate", axis, x.shape)] for x in tensors])[:-1].tolist()
    y = xp.concatenate([x.data for x in tensors], axis=axis)
    return apply(y, tensors, lambda g: tuple(xp.split(g, borders, axis=axis)))


# Reductions -----------------------------------------------------------------------------------------------------------


@operation
def sum(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """y = sum of x over `axis` (all axes by default); every element of x gets the g of its sum."""
    shape, axes = x.shape, _axes("sum", axis, x.shape)

    def vjp(g: Array) -> tuple[Array]:
        return (xp.array(xp.broadcast_to(_keep(g, shape, axes), shape)),)

    return apply(backend.total(x.data, axes, keepdims), (x,), vjp)


@operation
def mean(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """y = sum of x / n over `axis`; gx = g / n. Raises ValueError for the mean of nothing."""
    shape, axes = x.shape, _axes("mean", axis, x.shape)
    n = math.prod(shape[i] for i in axes)
    if n == 0:
        raise ValueError(f"mean of no elements: shape {shape}, axis {axis}")

    def vjp(g: Array) -> tuple[Array]:
        part = g * g.dtype.type(1 / n)  # bfloat16 times a Python number would be float32
        return (xp.array(xp.broadcast_to(_keep(part, shape, axes), shape)),)

    return apply(backend.mean(x.data, axes, keepdims), (x,), vjp)


@operation
def max(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """y = the largest of x over `axis`; g goes to the element that won, in equal parts to equal winners.

    Raises ValueError for the largest of nothing.
    """
    shape, axes = x.shape, _axes("max", axis, x.shape)
    if 0 in [shape[i] for i in axes]:
        raise ValueError(f"max of no elements: shape {shape}, axis {axis}")
    y = x.data.max(axis=axes, keepdims=True)
    won = x.data == y
    out = y if keepdims else y.reshape(tuple(n for i, n in enumerate(shape) if i not in axes))

    def vjp(g: Array) -> tuple[Array]:
        winners = won.sum(axis=axes, keepdims=True).astype(g.dtype)
        return (won * (_keep(g, shape, axes) / winners),)

    return apply(out, (x,), vjp, saved=(won,))


@operation
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """y_i = e^x_i / sum_j e^x_j along `axis`.

    dy_i/dx_j = y_i (1[i = j] - y_j), so gx = y (g - sum_j g_j y_j). The maximum of each row is subtracted first: it
    cancels in the quotient, and no exponent is above 0. (The maximum of the whole tensor would not do: rows far
    below it would underflow to 0 / 0.)
    """
    axis = _axis("softmax", axis, x.shape)
    y = softmax_rows(x.data, axis)

    def vjp(g: Array) -> tuple[Array]:
        return (y * (g - backend.total(g * y, axis, keepdims=True)),)

    return apply(y, (x,), vjp, saved=(y,))


@operation
def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """y_i = x_i - ln sum_j e^x_j along `axis`; gx = g - softmax(x) sum_j g_j."""
    axis = _axis("log_softmax", axis, x.shape)
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


def _axis(operation: str, axis: Any, shape: tuple[int, ...]) -> int:
    """The axis counted from the front. Raises ValueError for one that is not there, TypeError for anything else."""
    if not isinstance(axis, (int, np.integer)) or isinstance(axis, bool):
        raise TypeError(f"{operation}: the axis is {shown(axis)}; give a whole number")
    ndim = len(shape)
    if not -ndim <= axis < ndim:
        there = f"allowed are {-ndim} to {ndim - 1}" if ndim else "it has no axes"
        raise ValueError(f"{operation}: the axis is {shown(axis)}, the tensor has shape {shape}: {there}")
    return int(axis) % ndim


def _axes(operation: str, axis: Axis, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Each of the axes counted from the front, all of them for None. Raises ValueError for one that is given twice."""
    if axis is None:
        return tuple(range(len(shape)))
    axes = tuple(_axis(operation, i, shape) for i in (axis if isinstance(axis, (list, tuple)) else [axis]))
    if len(set(axes)) < len(axes):
        raise ValueError(f"{operation}: the axes are {shown(axis)}; give each only once")
    return axes


def _keep(g: Array, shape: tuple[int, ...], reduced: tuple[int, ...]) -> Array:
    """g with the axes that were reduced away put back, of length 1."""
    return g.reshape(tuple(1 if i in reduced else n for i, n in enumerate(shape)))


for _name, _operation in {
    "__add__": add,
    "__radd__": lambda a, b: add(b, a),
    "__sub__": subtract,
    "__rsub__": lambda a, b: subtract(b, a),
    "__mul__": multiply,
    "__rmul__": lambda a, b: multiply(b, a),
    "__truediv__": divide,
    "__rtruediv__": lambda a, b: divide(b, a),
    "__matmul__": matmul,
    "__rmatmul__": lambda a, b: matmul(b, a),
    "__neg__": negative,
    "__getitem__": index,
}.items():
    setattr(Tensor, _name, _operation)
