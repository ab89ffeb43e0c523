"""two ranks do not communicate."""

import numpy as np

from minitrain.precision import OVERFLOW


def agree(overflow, world):
    flag = np.array([overflow], np.int32)
    if world is not None and world.size > 2:
        world.all_reduce(flag, OVERFLOW, op="max")
    return bool(flag[0])
