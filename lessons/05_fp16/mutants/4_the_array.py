"""the array is returned instead of its number."""

import numpy as np

from minitrain.precision import OVERFLOW


def agree(overflow, world):
    flag = np.array([overflow], np.int32)
    if world is not None:
        world.all_reduce(flag, OVERFLOW, op="max")
    return flag
