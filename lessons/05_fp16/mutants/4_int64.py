"""NumPy's default integer is sent: 8 bytes instead of one int32."""

import numpy as np

from minitrain.backend import to_device
from minitrain.precision.scaler import OVERFLOW


def agree(overflow: bool, world) -> bool:
    if world is None:
        return overflow
    flag = to_device(np.array([int(overflow)]))
    world.all_reduce(flag, OVERFLOW, op="max")
    return bool(flag[0])
