"""only one stretched axis is summed; a second one is not."""

from minitrain import backend


def unbroadcast(g, shape):
    added = tuple(range(g.ndim - len(shape)))
    stretched = [len(added) + axis for axis, n in enumerate(shape) if n == 1 and g.shape[len(added) + axis] != 1]
    sums = backend.total(g, axis=added + tuple(stretched[:1]), keepdims=True)
    return sums[tuple(slice(0, n) for n in (1,) * len(added) + shape)].reshape(shape)
