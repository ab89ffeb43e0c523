"""the new array has one axis, whatever the shape of x."""

import numpy as np


def swap(world, x):
    arrived = np.empty(x.size, x.dtype)
    sent = world.send(x, (world.rank + 1) % world.size, ("ring", "swap"))
    world.receive(arrived, (world.rank - 1) % world.size, ("ring", "swap"))
    sent.wait()
    return arrived
