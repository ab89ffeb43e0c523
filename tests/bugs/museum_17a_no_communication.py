"""Wrong data parallel 1 of 9: the ranks never talk."""

from tests.bugs.museum import DataParallelBug

BUG = DataParallelBug("bucketed", sync=lambda gradients, group: None)
