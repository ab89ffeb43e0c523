"""all_reduce changes its array and returns nothing: look into the array afterwards."""

import numpy as np

from minitrain.precision import OVERFLOW


def agree(overflow, world):
    if world is None:
        return overflow
    return world.all_reduce(np.array([overflow], np.int32), OVERFLOW, op="max")
