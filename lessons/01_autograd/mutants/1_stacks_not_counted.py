"""only products of two matrices go through backend.matmul; those of stacks are not counted."""

import numpy as np

from minitrain import backend
from minitrain.autograd import apply
from minitrain.functional import operands, unbroadcast_both


def product(x, y):
    return backend.matmul(x, y) if x.ndim == y.ndim == 2 else np.matmul(x, y)


def matmul(a, b):
    a, b = operands(a, b)
    if a.ndim < 2 or b.ndim < 2:
        raise ValueError(f"matmul needs at least two axes, got shapes {a.shape} and {b.shape}; reshape first")

    def vjp(g):
        ga = product(g, b.data.swapaxes(-1, -2))
        gb = product(a.data.swapaxes(-1, -2), g)
        return unbroadcast_both(ga, gb, a.shape, b.shape)

    return apply(product(a.data, b.data), (a, b), vjp, saved=(a, b))
