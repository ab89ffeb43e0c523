"""a gradient without elements is returned unchanged; its sum over an axis of length 0 is 0, of length 1."""

from minitrain import backend


def unbroadcast(g, shape):
    added = tuple(range(g.ndim - len(shape)))
    if not g.size:
        return backend.total(g, axis=added)
    stretched = tuple(len(added) + axis for axis, n in enumerate(shape) if n == 1)
    return backend.total(g, axis=added + stretched, keepdims=True).reshape(shape)
