"""transposed copies are kept for backward, but `saved` names the operands."""

from minitrain import backend
from minitrain.autograd import apply
from minitrain.functional import operands, unbroadcast_both


def matmul(a, b):
    a, b = operands(a, b)
    if a.ndim < 2 or b.ndim < 2:
        raise ValueError(f"matmul needs at least two axes, got shapes {a.shape} and {b.shape}; reshape first")
    at, bt = a.data.swapaxes(-1, -2).copy(), b.data.swapaxes(-1, -2).copy()

    def vjp(g):
        return unbroadcast_both(backend.matmul(g, bt), backend.matmul(at, g), a.shape, b.shape)

    return apply(backend.matmul(a.data, b.data), (a, b), vjp, saved=(a, b))
