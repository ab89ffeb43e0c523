"""backward writes its result into an operand's memory, which changes the operand."""

from minitrain import backend
from minitrain.autograd import apply
from minitrain.functional import operands, unbroadcast_both


def matmul(a, b):
    a, b = operands(a, b)
    if a.ndim < 2 or b.ndim < 2:
        raise ValueError(f"matmul needs at least two axes, got shapes {a.shape} and {b.shape}; reshape first")

    def vjp(g):
        gb = backend.matmul(a.data.swapaxes(-1, -2), g)
        ga = backend.matmul(g, b.data.swapaxes(-1, -2))
        if ga.shape == a.shape:
            a.data[...] = ga
            ga = a.data
        return unbroadcast_both(ga, gb, a.shape, b.shape)

    return apply(backend.matmul(a.data, b.data), (a, b), vjp, saved=(a, b))
