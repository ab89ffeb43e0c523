"""DualPipe: each of a stage's two replicas keeps the gradient of the micro-batches that passed through it."""

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.buckets import Bucket
from minitrain.parallel.data_parallel import Bucketed
from minitrain.parallel.parallelize import REDUCERS
from tests.bugs.museum import FunctionBug
from tests.parallel.test_pipeline import test_pipeline_is_the_serial_run


class EachForItself(Bucketed):
    def reduce(self, bucket: Bucket, flat: Array, group: Communicator) -> None:
        if not bucket.spans_stages:
            super().reduce(bucket, flat, group)


BUG = FunctionBug(
    test_pipeline_is_the_serial_run, ("dualpipe", False), reducers={**REDUCERS, "bucketed": EachForItself}
)
