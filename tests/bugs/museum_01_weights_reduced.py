"""The parameter hook sums the weights instead of the gradients."""

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.buckets import Bucket
from minitrain.parallel.data_parallel import Bucketed
from tests.bugs.museum import DataParallelBug


class WeightsReduced(Bucketed):
    def reduce(self, bucket: Bucket, flat: Array, group: Communicator) -> None:
        assert bucket.data is not None
        self.sync([bucket.data], group)


BUG = DataParallelBug("bucketed", reducer=WeightsReduced)
