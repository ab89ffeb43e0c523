"""one array is used again and again."""

import numpy as np

from minitrain.precision import OVERFLOW

FLAG = np.zeros(1, np.int32)


def agree(overflow, world):
    FLAG[0] = overflow
    if world is not None and world.size > 1:
        world.all_reduce(FLAG, OVERFLOW)
    return bool(FLAG[0])
