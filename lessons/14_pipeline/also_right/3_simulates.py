"""Calls the library's simulation, and returns a NumPy integer."""

import numpy as np

from minitrain.parallel.pipeline_schedules import all_ranks
from minitrain.parallel.pipeline_simulation import simulate


def micro_batches(p, percent):
    m = np.int64(1)
    while 100 * simulate(all_ranks("gpipe", p, m)).idle > percent:
        m += 1
    return m
