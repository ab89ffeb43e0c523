"""a group of one rank always gets False, even after an overflow."""

import numpy as np

from minitrain.precision import OVERFLOW


def agree(overflow, world):
    if world is None or world.size == 1:
        return overflow if world is None else False
    flag = np.array([overflow], np.int32)
    world.all_reduce(flag, OVERFLOW, op="max")
    return bool(flag[0])
