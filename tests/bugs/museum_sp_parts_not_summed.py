"""Sequence parallel: gradients of norms, biases and positions are partial but not summed over tp."""

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.buckets import Bucket
from minitrain.parallel.data_parallel import Bucketed
from minitrain.parallel.parallelize import REDUCERS
from tests.bugs.museum import FunctionBug
from tests.parallel.test_mesh import test_tensor_parallel_is_the_serial_run


class PartsNotSummed(Bucketed):
    def reduce(self, bucket: Bucket, flat: Array, group: Communicator) -> None:
        assert self.mesh is not None
        super().reduce(bucket, flat, self.mesh.group("dp"))


REDUCE = {**REDUCERS, "bucketed": PartsNotSummed}
BUG = FunctionBug(test_tensor_parallel_is_the_serial_run, (True, True), reducers=REDUCE)
