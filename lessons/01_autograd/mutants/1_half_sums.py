"""a broadcast operand's parts are summed in their own dtype: a float16 sum stops growing at 2048."""

from minitrain import backend
from minitrain.autograd import apply
from minitrain.functional import operands


def summed(g, shape):
    added = tuple(range(g.ndim - len(shape)))
    stretched = tuple(len(added) + axis for axis, n in enumerate(shape) if n == 1 and g.shape[len(added) + axis] != 1)
    return g.sum(axis=added + stretched, keepdims=True).reshape(shape)


def matmul(a, b):
    a, b = operands(a, b)
    if a.ndim < 2 or b.ndim < 2:
        raise ValueError(f"matmul needs at least two axes, got shapes {a.shape} and {b.shape}; reshape first")

    def vjp(g):
        ga = backend.matmul(g, b.data.swapaxes(-1, -2))
        gb = backend.matmul(a.data.swapaxes(-1, -2), g)
        return summed(ga, a.shape), summed(gb, b.shape)

    return apply(backend.matmul(a.data, b.data), (a, b), vjp, saved=(a, b))
