"""The parameters inside the blocks are never reduced."""

from minitrain.parallel.data_parallel import Naive
from minitrain.parallel.flat import Bucket
from tests.bugs.museum import DataParallelBug


class BlocksForgotten(Naive):
    def reduce(self, bucket: Bucket) -> None:
        outside = [p for p in bucket.parameters if not p.placement.path.startswith("blocks.")]
        self.sync([p.grad for p in outside if p.grad is not None], bucket.group)


BUG = DataParallelBug("naive", reducer=BlocksForgotten)
