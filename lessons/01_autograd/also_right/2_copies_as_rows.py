"""Moves the repeated axes to the front, makes them one, and sums over it once."""

import math

from minitrain import backend
from minitrain.backend import Array


def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Return the gradient of an operand of shape `shape` that was broadcast to g's shape."""
    aligned = (1,) * (g.ndim - len(shape)) + tuple(shape)
    repeated = [axis for axis, (n, m) in enumerate(zip(aligned, g.shape, strict=False)) if n != m]
    kept = [axis for axis in range(g.ndim) if axis not in repeated]
    copies = math.prod(g.shape[axis] for axis in repeated)
    elements = math.prod(g.shape[axis] for axis in kept)
    rows = g.transpose(repeated + kept).reshape(copies, elements)
    return backend.total(rows, axis=0).reshape(shape)
