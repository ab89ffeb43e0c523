"""a bool of 1 byte is sent instead of an int32."""

import numpy as np

from minitrain.precision import OVERFLOW


def agree(overflow, world):
    flag = np.array([overflow])
    if world is not None:
        world.all_reduce(flag, OVERFLOW, op="max")
    return bool(flag[0])
