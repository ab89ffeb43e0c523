"""The gradient of an operand that requires none is not computed; None is returned for it."""

from minitrain import backend
from minitrain.autograd import apply
from minitrain.functional import operands, unbroadcast


def matmul(a, b):
    a, b = operands(a, b)
    if a.ndim < 2 or b.ndim < 2:
        raise ValueError(f"matmul needs at least two axes, got shapes {a.shape} and {b.shape}; reshape first")

    def vjp(g):
        ga = gb = None
        if a.requires_grad:
            ga = unbroadcast(backend.matmul(g, b.data.swapaxes(-1, -2)), a.shape)
        if b.requires_grad:
            gb = unbroadcast(backend.matmul(a.data.swapaxes(-1, -2), g), b.shape)
        return [ga, gb]

    return apply(backend.matmul(a.data, b.data), (a, b), vjp, saved=[b.data, a.data])
