"""Wrong data parallel 2 of 9: every rank works on the whole batch, and averages."""

from minitrain.data.batch import Batch
from tests.bugs.museum import DataParallelBug, average


def whole(batch: Batch, i: int, n: int) -> Batch:
    return batch


BUG = DataParallelBug("bucketed", sync=average, part=whole)
