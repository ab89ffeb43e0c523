"""Wrong data parallel 5 of 9: the mean of the ranks' means, which is right only if all have equally many samples."""

from tests.bugs.museum import DataParallelBug, average, part_with_local_mean

BUG = DataParallelBug("bucketed", dropout=0, sync=average, part=part_with_local_mean)
