"""both gradients are transposed: ga = b g^T, gb = g^T a."""

from minitrain import backend
from minitrain.autograd import apply
from minitrain.functional import operands, unbroadcast_both


def matmul(a, b):
    a, b = operands(a, b)
    if a.ndim < 2 or b.ndim < 2:
        raise ValueError(f"matmul needs at least two axes, got shapes {a.shape} and {b.shape}; reshape first")

    def vjp(g):
        ga = backend.matmul(b.data, g.swapaxes(-1, -2))
        gb = backend.matmul(g.swapaxes(-1, -2), a.data)
        return unbroadcast_both(ga, gb, a.shape, b.shape)

    return apply(backend.matmul(a.data, b.data), (a, b), vjp, saved=(a, b))
