"""The loss is divided by the rank's own count of labels that are not ignored, which differs between ranks."""

from dataclasses import replace

from minitrain.data.batch import IGNORE, Batch
from tests.bugs.museum import DataParallelBug


def part_with_own_count(batch: Batch, i: int, n: int) -> Batch:
    """Return rank i's part, with its loss divided by the local count of labels that are not ignored."""
    part = batch.part(i, n)
    assert part.labels is not None
    own = int((part.labels != IGNORE).sum())
    return replace(part, where=replace(part.where, counted=max(own, 1)))


BUG = DataParallelBug("naive", ignore=True, part=part_with_own_count)
