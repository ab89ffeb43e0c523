"""Counts the ranks that overflowed, with the sum."""

import numpy as np

from minitrain.backend import to_device
from minitrain.precision.scaler import OVERFLOW


def agree(overflow: bool, world) -> bool:
    if world is None:
        return bool(overflow)
    ranks = to_device(np.full(1, 1 if overflow else 0, dtype=np.int32))
    world.all_reduce(ranks, OVERFLOW)
    return bool(ranks[0] > 0)
