"""only the axes stretched from length 1 are summed, not those added in front."""

from minitrain import backend


def unbroadcast(g, shape):
    added = g.ndim - len(shape)
    stretched = tuple(added + axis for axis, n in enumerate(shape) if n == 1 and g.shape[added + axis] != 1)
    return backend.total(g, axis=stretched, keepdims=True)
