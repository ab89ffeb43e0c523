"""a stretched axis is summed away: x had it, with length 1."""

from minitrain import backend


def unbroadcast(g, shape):
    if g.shape == shape:
        return g
    added = tuple(range(g.ndim - len(shape)))
    stretched = tuple(len(added) + axis for axis, n in enumerate(shape) if n == 1 and g.shape[len(added) + axis] != 1)
    return backend.total(g, axis=added + stretched)
