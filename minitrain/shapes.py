"""Operations that only move elements: reshape, squeeze, transpose, index, split, concatenate, stack.

Call them as `functional.reshape` and so on, or as methods: `x.reshape(2, 3)`. In every docstring y is the result,
g = dL/dy and gx = dL/dx. Each gradient moves back to where its element came from.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from . import backend
from .autograd import apply
from .backend import Array, xp
from .errors import shown
from .operands import is_masked
from .tensor import Tensor, check_tensors, operation

Axis: TypeAlias = int | Sequence[int] | None


@operation
def reshape(x: Tensor, shape: int | Sequence[int]) -> Tensor:
    """Return the same elements in another shape; gx = g in x's shape. Raise ValueError if the sizes differ."""
    before = x.shape
    try:
        y = x.data.reshape(shape)
    except (TypeError, ValueError) as error:
        raise type(error)(f"reshape: from shape {before} to {shown(shape)}: {error}") from None
    return apply(y, (x,), lambda g: (g.reshape(before),))


@operation
def squeeze(x: Tensor, axis: Axis = None) -> Tensor:
    """Remove axes of length 1: `axis` (one or several), or by default all of them. gx = g in x's shape.

    Raise ValueError for an axis of another length.
    """
    axes = axes_of("squeeze", axis, x.shape)
    longer = [i for i in axes if x.shape[i] != 1]
    if longer and axis is not None:
        raise ValueError(f"squeeze: the axis is {shown(axis)}; of shape {x.shape}, only length-1 axes can be removed")
    before, after = x.shape, tuple(n for i, n in enumerate(x.shape) if i not in axes or n != 1)
    return apply(x.data.reshape(after), (x,), lambda g: (g.reshape(before),))


@operation
def transpose(x: Tensor, axes: int | Sequence[int] | None = None) -> Tensor:
    """Permute the axes: axis i of y is axis axes[i] of x (default: reversed); gx = g with the axes permuted back.

    If x has more axes than the two given, these are swapped: transpose(x, (-2, -1)) transposes each matrix.
    Raise ValueError unless `axes` names each axis of x once, or two axes.
    """
    axes = axes_of("transpose", tuple(reversed(range(x.ndim))) if axes is None else axes, x.shape)
    if len(axes) == 2 < x.ndim:
        order, (i, j) = list(range(x.ndim)), axes
        order[i], order[j] = j, i
        axes = tuple(order)
    if len(axes) != x.ndim:
        raise ValueError(f"transpose: axes is {shown(axes)}; a tensor of shape {x.shape} needs all of its axes, or two")
    back = tuple(int(i) for i in np.argsort(axes))
    return apply(x.data.transpose(axes), (x,), lambda g: (g.transpose(back),))


@operation
def index(x: Tensor, item: Any) -> Tensor:
    """y = x[item]; gx = 0 except gx[item] += g (an element taken twice receives two terms).

    Raise IndexError for an item out of bounds, TypeError if the item is a Tensor or a masked array.
    """
    shape, dtype = x.shape, x.dtype
    parts = item if isinstance(item, tuple) else (item,)
    for part in parts:
        if isinstance(part, Tensor) or is_masked(part):
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


@operation
def split(x: Tensor, sizes: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """Split x along `axis` into pieces of length `sizes` (the last may be shorter), or of the lengths in a list.

    Like torch.split; numpy.split takes the number of pieces instead. Each piece passes on the gradient of its elements.
    Raise ValueError if lengths are negative or do not add up to the axis, TypeError unless they are whole numbers.
    """
    axis = axis_of("split", axis, x.shape)
    n, each = x.shape[axis], not isinstance(sizes, (list, tuple))
    given: Sequence[Any] = [sizes] if isinstance(sizes, (int, np.integer)) else sizes if not each else [None]
    if any(not isinstance(length, (int, np.integer)) or isinstance(length, bool) for length in given):
        raise TypeError(f"split: sizes is {shown(sizes)}; give a whole number, or a list of them")
    lengths = [int(length) for length in given]
    if each and lengths[0] > 0:
        lengths = [min(lengths[0], n - lo) for lo in range(0, n, lengths[0])] or [0]
    if min(lengths, default=-1) < 0 or sum(lengths) != n:
        raise ValueError(f"split: sizes is {shown(sizes)}; axis {axis} of shape {x.shape} has {n} elements to divide")
    ends = np.cumsum(lengths).tolist()
    return [index(x, (*(slice(None),) * axis, slice(hi - size, hi))) for size, hi in zip(lengths, ends, strict=True)]


def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join the tensors along `axis`; each receives its own piece of g.

    Raise ValueError for an empty list, an axis out of range or shapes that do not match, TypeError for different
    dtypes.
    """
    _check_joined("concatenate", tensors)
    borders = np.cumsum([x.shape[axis_of("concatenate", axis, x.shape)] for x in tensors])[:-1].tolist()
    y = _joined("concatenate", xp.concatenate, tensors, axis)
    return apply(y, tensors, lambda g: tuple(xp.split(g, borders, axis=axis)))


def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join n tensors of one shape along a new axis of length n, number `axis`; each receives its own piece of g.

    Raise ValueError for an empty list, an axis out of range or different shapes, TypeError for different dtypes.
    """
    _check_joined("stack", tensors)
    axis = axis_of("stack", axis, (len(tensors), *tensors[0].shape))
    y = _joined("stack", xp.stack, tensors, axis)
    return apply(y, tensors, lambda g: tuple(xp.moveaxis(g, axis, 0)))


def _check_joined(name: str, tensors: Sequence[Tensor]) -> None:
    """Raise TypeError unless all are tensors of the same dtype, ValueError for an empty list."""
    check_tensors(name, tensors)
    if not tensors:
        raise ValueError(f"{name} needs at least one tensor")
    if len({x.dtype for x in tensors}) > 1:
        raise TypeError(f"{name}: dtypes differ: {[str(x.dtype) for x in tensors]}")


def _joined(name: str, join: Any, tensors: Sequence[Tensor], axis: int) -> Array:
    try:
        return join([x.data for x in tensors], axis=axis)
    except ValueError as error:
        raise ValueError(f"{name}: the shapes are {[x.shape for x in tensors]}, along axis {axis}: {error}") from None


def axis_of(operation: str, axis: Any, shape: tuple[int, ...]) -> int:
    """Return the axis as a non-negative number. Raise ValueError if out of range, TypeError if not a whole number."""
    if not isinstance(axis, (int, np.integer)) or isinstance(axis, bool):
        raise TypeError(f"{operation}: the axis is {shown(axis)}; give a whole number")
    ndim = len(shape)
    if not -ndim <= axis < ndim:
        there = f"allowed are {-ndim} to {ndim - 1}" if ndim else "it has no axes"
        raise ValueError(f"{operation}: the axis is {shown(axis)}, the tensor has shape {shape}: {there}")
    return int(axis) % ndim


def axes_of(operation: str, axis: Axis, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes as non-negative numbers, all of them for None. Raise as axis_of, and for a repeated axis."""
    if axis is None:
        return tuple(range(len(shape)))
    axes = tuple(axis_of(operation, i, shape) for i in (axis if isinstance(axis, (list, tuple)) else [axis]))
    if len(set(axes)) < len(axes):
        raise ValueError(f"{operation}: the axes are {shown(axis)}; give each only once")
    return axes
