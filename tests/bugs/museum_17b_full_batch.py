"""Wrong data parallel 2 of 9: every rank processes the whole batch, and the gradients are averaged."""

from minitrain.data.batch import Batch
from tests.bugs.museum import DataParallelBug, average


def whole(batch: Batch, i: int, n: int) -> Batch:
    return batch


BUG = DataParallelBug("bucketed", sync=average, part=whole)
