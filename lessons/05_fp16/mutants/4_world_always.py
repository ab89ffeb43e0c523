"""a run of one process has no world: it is None."""

import numpy as np

from minitrain.precision import OVERFLOW

SAYS = "object has no attribute"


def agree(overflow, world):
    flag = np.array([overflow], np.int32)
    world.all_reduce(flag, OVERFLOW, op="max")
    return bool(flag[0])
