"""sums an axis only where g has more than one element: an axis broadcast from 1 to 0 is left."""

from minitrain import backend
from minitrain.backend import Array


def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Return the gradient of an operand of shape `shape` that was broadcast to g's shape."""
    lead = g.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(lead + i for i, n in enumerate(shape) if n == 1 and g.shape[lead + i] > 1)
    return backend.total(g, axis=axes, keepdims=True).reshape(shape) if axes else g
