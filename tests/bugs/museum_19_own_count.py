"""The denominator is this rank's own count of the labels that are not ignored, and ranks have unequally many."""

from dataclasses import replace

from minitrain.data.batch import IGNORE, Batch
from tests.bugs.museum import DataParallelBug


def part_with_own_count(batch: Batch, i: int, n: int) -> Batch:
    """A rank's part, whose loss is divided by the labels that count here."""
    part = batch.part(i, n)
    assert part.labels is not None
    own = int((part.labels != IGNORE).sum())
    return replace(part, where=replace(part.where, counted=max(own, 1)))


BUG = DataParallelBug("naive", ignore=True, part=part_with_own_count)
