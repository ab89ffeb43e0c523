"""Tensor parallel: gradients are clipped by the norm of the rank's own slices."""

from minitrain.parallel.data_parallel import Bucketed
from minitrain.parallel.parallelize import REDUCERS
from tests.bugs.museum import FunctionBug
from tests.parallel.test_mesh import test_tensor_parallel_is_the_serial_run


class NormOfLocalSlices(Bucketed):
    def over_model(self, part: float) -> float:
        return part


REDUCE = {**REDUCERS, "bucketed": NormOfLocalSlices}
BUG = FunctionBug(test_tensor_parallel_is_the_serial_run, (False, True), reducers=REDUCE)
