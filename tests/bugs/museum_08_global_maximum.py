"""Softmax subtracts the maximum of the whole tensor: rows far below it become 0 / 0."""

import numpy as np

from minitrain.autograd import apply
from minitrain.backend import Array
from minitrain.tensor import Tensor
from tests.bugs.museum import FunctionBug
from tests.test_functional import test_softmax_of_rows_far_apart


def softmax(x: Tensor) -> Tensor:
    e = np.exp(x.data - x.data.max())
    with np.errstate(invalid="ignore"):
        y = e / e.sum(axis=-1, keepdims=True)

    def vjp(g: Array) -> tuple[Array]:
        return (y * (g - (g * y).sum(axis=-1, keepdims=True)),)

    return apply(y, (x,), vjp, saved=(y,))


BUG = FunctionBug(test_softmax_of_rows_far_apart, (np.float64, 1000), operations=(softmax,))
