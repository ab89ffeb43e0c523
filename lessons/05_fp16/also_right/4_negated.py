"""the smallest of 1 - overflow."""

import numpy as np

from minitrain.precision import OVERFLOW


def agree(overflow, world):
    fine = np.array([not overflow], np.int32)
    if world is not None:
        world.all_reduce(fine, OVERFLOW)
        return bool(fine[0] < world.size)
    return not fine[0]
