"""Wrong data parallel 9 of 9: each rank draws its initial values from a seed of its own."""

from tests.bugs.museum import DataParallelBug

BUG = DataParallelBug("bucketed", seed=lambda rank: 3 + rank, same=False)
