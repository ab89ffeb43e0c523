"""If b is one matrix, merges all leading axes of a and g into rows: one large product instead of many."""

from typing import Any

from minitrain import backend
from minitrain.autograd import apply
from minitrain.backend import Array
from minitrain.functional import _match, operands, unbroadcast_both
from minitrain.tensor import Tensor


def matmul(a: Any, b: Any) -> Tensor:
    """y = a b, (..., n, k) (..., k, m) -> (..., n, m); leading axes broadcast."""
    a, b = operands(a, b)
    if a.ndim < 2 or b.ndim < 2:
        raise ValueError(f"matmul: the shapes are {a.shape} and {b.shape}; both need two axes or more")
    if a.shape[-1] != b.shape[-2] or not _match(a.shape[:-2], b.shape[:-2]):
        raise ValueError(f"matmul: the shapes {a.shape} and {b.shape} do not match")
    merged = b.ndim == 2

    def vjp(g: Array) -> tuple[Array, Array]:
        if merged and a.data.size and g.size:
            a_rows, g_rows = a.data.reshape(-1, a.shape[-1]), g.reshape(-1, g.shape[-1])
            return backend.matmul(g_rows, b.data.T).reshape(a.shape), backend.matmul(a_rows.T, g_rows)
        ga = backend.matmul(g, b.data.swapaxes(-1, -2))
        gb = backend.matmul(a.data.swapaxes(-1, -2), g)
        return unbroadcast_both(ga, gb, a.shape, b.shape)

    return apply(backend.matmul(a.data, b.data), (a, b), vjp, saved=(a, b))
