"""The gradient of a matrix multiplied with a stack is one product over all leading axes."""

import math

from minitrain import backend
from minitrain.autograd import apply
from minitrain.functional import operands, unbroadcast_both


def matmul(a, b):
    a, b = operands(a, b)
    if a.ndim < 2 or b.ndim < 2:
        raise ValueError(f"matmul needs at least two axes, got shapes {a.shape} and {b.shape}; reshape first")

    def vjp(g):
        ga = backend.matmul(g, b.data.swapaxes(-1, -2))
        if b.ndim == 2:
            rows, columns = b.shape
            lead = math.prod(a.shape[:-1])
            gb = backend.matmul(a.data.reshape(lead, rows).T, g.reshape(lead, columns))
        else:
            gb = backend.matmul(a.data.swapaxes(-1, -2), g)
        return unbroadcast_both(ga, gb, a.shape, b.shape)

    return apply(backend.matmul(a.data, b.data), (a, b), vjp, saved=(a, b))
