"""A NumPy float64 constant promotes float32 to float64."""

import numpy as np

from minitrain.autograd import apply
from minitrain.tensor import Tensor
from tests.bugs.museum import FunctionBug
from tests.test_fused import TABLE, test_dtype


def gelu(x: Tensor) -> Tensor:
    slope = 1 / (1 + np.exp(-np.sqrt(8 / np.pi) * x.data))  # np.sqrt of a Python number returns such a constant
    return apply(x.data * slope, (x,), lambda g: (g * slope,), saved=(slope,))


ROW = next(row for row in TABLE if row.name == "gelu")
SETTINGS = (ROW.shapes[0], np.float32)
BUG = FunctionBug(test_dtype, (ROW, *SETTINGS), planted=(ROW._replace(ours=gelu), *SETTINGS))
