"""only one neighbour is asked, which is enough for two ranks and no more."""

import numpy as np

from minitrain.precision import OVERFLOW


def agree(overflow, world):
    flag = np.array([overflow], np.int32)
    if world is None:
        return overflow
    arriving = np.empty_like(flag)
    sent = world.send(flag, (world.rank + 1) % world.size, OVERFLOW)
    world.receive(arriving, (world.rank - 1) % world.size, OVERFLOW)
    sent.wait()
    return bool(flag[0] or arriving[0])
