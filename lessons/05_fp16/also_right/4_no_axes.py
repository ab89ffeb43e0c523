"""All-reduces an array without axes (shape ()), also when there is no world to ask."""

import numpy as np

from minitrain.backend import to_device
from minitrain.precision.scaler import OVERFLOW


def agree(overflow: bool, world) -> bool:
    flag = to_device(np.array(bool(overflow), dtype=np.int32))
    if world is not None:
        world.all_reduce(flag, OVERFLOW, op="max")
    return flag.item() == 1
