"""Weights are updated after each micro-batch while others, whose forward used the old weights, are still in flight."""

from collections.abc import Iterable

from minitrain.nn import Parameter
from minitrain.parallel.data_parallel import Bucketed
from minitrain.parallel.parallelize import REDUCERS
from tests.bugs.museum import FunctionBug
from tests.parallel.test_pipeline import test_pipeline_is_the_serial_run


class UpdatesAtOnce(Bucketed):
    def end_backward(self, parameters: Iterable[Parameter] | None = None) -> None:
        super().end_backward(parameters)
        for bucket in self.trained:
            if bucket.grad is not None and bucket.data is not None and min(self.fired.values()) < self.backwards:
                bucket.fill()
                bucket.data -= 0.05 * bucket.grad


REDUCE = {**REDUCERS, "bucketed": UpdatesAtOnce}
BUG = FunctionBug(test_pipeline_is_the_serial_run, ("1f1b", True), reducers=REDUCE)
