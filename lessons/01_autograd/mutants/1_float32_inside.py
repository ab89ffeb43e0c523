"""the product is computed in float32: float64 operands lose half their digits."""

from minitrain import backend
from minitrain.autograd import apply
from minitrain.functional import operands, unbroadcast_both


def matmul(a, b):
    a, b = operands(a, b)
    if a.ndim < 2 or b.ndim < 2:
        raise ValueError(f"matmul needs at least two axes, got shapes {a.shape} and {b.shape}; reshape first")

    def product(x, y):
        return backend.matmul(x.astype("float32"), y.astype("float32")).astype(x.dtype)

    def vjp(g):
        ga = product(g, b.data.swapaxes(-1, -2))
        gb = product(a.data.swapaxes(-1, -2), g)
        return unbroadcast_both(ga, gb, a.shape, b.shape)

    return apply(product(a.data, b.data), (a, b), vjp, saved=(a, b))
