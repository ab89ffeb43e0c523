"""adds the copies along a new leading axis into the first copy, which is a view of g."""

from minitrain import backend
from minitrain.backend import Array


def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Return the gradient of an operand of shape `shape` that was broadcast to g's shape."""
    while g.ndim > len(shape):
        if len(g) == 0:
            g = backend.total(g, axis=0)
            continue
        first = g[0:1].reshape(g.shape[1:])
        if len(g) > 1:
            first += backend.total(g[1:], axis=0)
        g = first
    axes = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
    return backend.total(g, axis=axes, keepdims=True) if axes else g
