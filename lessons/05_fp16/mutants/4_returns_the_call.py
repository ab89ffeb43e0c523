"""all_reduce returns nothing; it changes its array, so read the result from the array."""

import numpy as np

from minitrain.precision import OVERFLOW


def agree(overflow, world):
    if world is None:
        return overflow
    return world.all_reduce(np.array([overflow], np.int32), OVERFLOW, op="max")
