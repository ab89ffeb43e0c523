"""Wrong data parallel 6 of 9: a buffer of zeros is reduced instead of the gradient."""

from tests.bugs.museum import DataParallelBug, mutant

BUG = DataParallelBug("bucketed", sync=mutant("07_data_parallel", "2_zeros").sync_gradients)
