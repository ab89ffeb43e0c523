"""one axis after another, from the front."""

from minitrain import backend


def unbroadcast(g, shape):
    while g.ndim > len(shape):
        g = backend.total(g, axis=0)
    for axis, n in enumerate(shape):
        if n == 1:
            g = backend.total(g, axis=axis, keepdims=True)
    return g
