"""Wrong data parallel 3 of 9: every rank takes the first shard of the batch."""

from minitrain.data.batch import Batch
from tests.bugs.museum import DataParallelBug


def first(batch: Batch, i: int, n: int) -> Batch:
    return batch.part(0, n)


BUG = DataParallelBug("bucketed", part=first)
