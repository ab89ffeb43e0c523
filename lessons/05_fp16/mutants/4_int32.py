"""the number itself is returned, an int32, instead of True or False."""

import numpy as np

from minitrain.precision import OVERFLOW


def agree(overflow, world):
    flag = np.array([overflow], np.int32)
    if world is not None:
        world.all_reduce(flag, OVERFLOW, op="max")
    return flag[0]
