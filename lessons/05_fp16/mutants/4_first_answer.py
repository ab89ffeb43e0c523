"""the first answer without a world is kept for later calls."""

import numpy as np

from minitrain.precision import OVERFLOW

KEPT = {}


def agree(overflow, world):
    if world is None:
        return KEPT.setdefault("overflow", overflow)
    flag = np.array([overflow], np.int32)
    world.all_reduce(flag, OVERFLOW, op="max")
    return bool(flag[0])
