"""takes the axes of length 1 from `shape` without shifting them by the leading axes of g."""

from minitrain import backend
from minitrain.backend import Array


def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Return the gradient of an operand of shape `shape` that was broadcast to g's shape."""
    lead = tuple(range(g.ndim - len(shape)))
    ones = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
    axes = tuple({*lead, *ones})
    return backend.total(g, axis=axes, keepdims=True).reshape(shape) if axes else g
