"""only ranks with an overflow call all_reduce, and wait for the others forever."""

import numpy as np

from minitrain.precision import OVERFLOW

SAYS = "ranks differ in operation"


def agree(overflow, world):
    flag = np.array([overflow], np.int32)
    if overflow and world is not None:
        world.all_reduce(flag, OVERFLOW, op="max")
    return bool(flag[0])
