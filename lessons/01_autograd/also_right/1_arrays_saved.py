"""vjp keeps the arrays and not the tensors, and multiplies (g^T a)^T."""

from minitrain import backend
from minitrain.autograd import apply
from minitrain.functional import operands, unbroadcast_both


def matmul(a, b):
    a, b = operands(a, b)
    if a.ndim < 2 or b.ndim < 2:
        raise ValueError(f"matmul needs at least two axes, got shapes {a.shape} and {b.shape}; reshape first")
    x, y = a.data, b.data

    def vjp(g):
        gb = backend.matmul(g.swapaxes(-1, -2), x).swapaxes(-1, -2)
        return unbroadcast_both(backend.matmul(g, y.swapaxes(-1, -2)), gb, x.shape, y.shape)

    return apply(backend.matmul(x, y), (a, b), vjp, saved=(x, y))
