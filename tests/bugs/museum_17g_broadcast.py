"""Wrong data parallel 7 of 9: every rank gets rank 0's gradient."""

from tests.bugs.museum import DataParallelBug, mutant

BUG = DataParallelBug("bucketed", sync=mutant("07_data_parallel", "2_broadcast").sync_gradients)
