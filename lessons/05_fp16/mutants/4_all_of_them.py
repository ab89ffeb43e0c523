"""it skips only when all ranks overflow; it must skip when any does."""

import numpy as np

from minitrain.precision import OVERFLOW


def agree(overflow, world):
    flag = np.array([overflow], np.int32)
    if world is None:
        return overflow
    world.all_reduce(flag, OVERFLOW)
    return bool(flag[0] == world.size)
