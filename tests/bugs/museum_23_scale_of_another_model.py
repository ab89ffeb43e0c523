"""Two models share a scaler: the second's gradients are divided by the scale that the first has already updated."""

from typing import Any

from minitrain.precision import DynamicScaler
from tests.bugs.museum import FunctionBug
from tests.precision.test_precision import test_models_that_share_a_scaler


class Moves(DynamicScaler):
    def enter(self, reducer: Any) -> None:
        """Start a new round for every model."""
        self.moved = -1
        super().enter(reducer)


BUG = FunctionBug(test_models_that_share_a_scaler, kind=Moves)
