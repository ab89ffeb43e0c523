"""Wrong data parallel 8 of 9: all gradients go to rank 0 and back. The values are right; rank 0's traffic is not."""

from tests.bugs.museum import DataParallelBug, mutant

BUG = DataParallelBug("bucketed", sync=mutant("07_data_parallel", "2_star").sync_gradients)
