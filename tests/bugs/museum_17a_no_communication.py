"""Wrong data parallel 1 of 9: the ranks never communicate."""

from tests.bugs.museum import DataParallelBug, mutant

BUG = DataParallelBug("bucketed", sync=mutant("07_data_parallel", "2_no_communication").sync_gradients)
