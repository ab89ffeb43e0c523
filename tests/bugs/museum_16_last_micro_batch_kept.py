"""ZeRO-2 with accumulation keeps only the last micro-batch's gradient: it stores it instead of adding it."""

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.buckets import Bucket
from minitrain.parallel.parallelize import REDUCERS
from minitrain.parallel.zero import Zero2
from tests.bugs.museum import FunctionBug
from tests.equivalence.harness import Case
from tests.equivalence.test_data_parallel import test_three_ranks


class LastMicroBatchKept(Zero2):
    def reduce(self, bucket: Bucket, flat: Array, group: Communicator) -> None:
        self.grads[bucket] = self.scatter(flat, group).copy()


BUG = FunctionBug(
    test_three_ranks,
    (Case("zero2", "ring", accumulate=3),),
    (Case("zero2", "ring", accumulate=3, hooks={"reducers": {**REDUCERS, "zero2": LastMicroBatchKept}}),),
)
