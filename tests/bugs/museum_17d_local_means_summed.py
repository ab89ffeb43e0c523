"""Wrong data parallel 4 of 9: each rank divides by its own number of samples, and the means are summed."""

from tests.bugs.museum import DataParallelBug, part_with_local_mean

BUG = DataParallelBug("bucketed", dropout=0, part=part_with_local_mean)
