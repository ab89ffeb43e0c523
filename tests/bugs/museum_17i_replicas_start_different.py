"""Wrong data parallel 9 of 9: each rank initializes its weights from a different seed."""

from tests.bugs.museum import DataParallelBug

BUG = DataParallelBug("bucketed", seed=lambda rank: 3 + rank, same=False)
