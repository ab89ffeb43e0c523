"""a float32 is sent: as many bytes, but not an int32."""

import numpy as np

from minitrain.precision import OVERFLOW


def agree(overflow, world):
    flag = np.array([overflow], np.float32)
    if world is not None:
        world.all_reduce(flag, OVERFLOW, op="max")
    return bool(flag[0])
