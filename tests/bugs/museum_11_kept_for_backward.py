"""ZeRO-3 keeps the weights gathered in forward until backward: peak memory is that of the whole model."""

from minitrain.backend import Array
from minitrain.parallel.buckets import Bucket
from minitrain.parallel.parallelize import REDUCERS
from minitrain.parallel.reducer import require
from minitrain.parallel.zero import Zero3
from tests.bugs.museum import FunctionBug
from tests.parallel.test_zero import test_bytes_a_parameter


class KeptForBackward(Zero3):
    def place(self, bucket: Bucket, flat: Array) -> None:
        super().place(bucket, flat)
        self.kept: dict[Bucket, Array] = {}

    def drop(self, bucket: Bucket) -> None:
        if self.kept.pop(bucket, None) is None:
            self.kept[bucket] = require(bucket.data)
        super().drop(bucket)


BUG = FunctionBug(test_bytes_a_parameter, (3, 3), reducers={**REDUCERS, "zero3": KeptForBackward})
