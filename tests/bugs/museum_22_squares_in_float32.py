"""Finite gradients are mistaken for an overflow because their squares are summed in float32."""

import math
from typing import Any

import numpy as np

from minitrain.precision import DynamicScaler
from tests.bugs.museum import FunctionBug
from tests.precision.test_precision import test_a_finite_gradient_is_no_overflow


class Squares(DynamicScaler):
    def unscale(self, reducer: Any) -> bool:
        with np.errstate(over="ignore"):
            sums = [float(np.dot(owned.grad, owned.grad)) for owned in reducer.owned()]
        if not all(map(math.isfinite, sums)):
            reducer.owned()[0].grad[0] = math.inf
        return super().unscale(reducer)


BUG = FunctionBug(test_a_finite_gradient_is_no_overflow, kind=Squares)
