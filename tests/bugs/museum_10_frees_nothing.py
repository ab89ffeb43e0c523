"""ZeRO-3 frees nothing on rank 0, where `if rank:` is false."""

from minitrain.parallel.buckets import Bucket
from minitrain.parallel.parallelize import REDUCERS
from minitrain.parallel.zero import Zero3
from tests.bugs.museum import FunctionBug
from tests.parallel.test_zero import test_bytes_a_parameter


class FreesNothing(Zero3):
    def drop(self, bucket: Bucket) -> None:
        if bucket.group.rank:
            super().drop(bucket)


BUG = FunctionBug(test_bytes_a_parameter, (3, 3), reducers={**REDUCERS, "zero3": FreesNothing})
