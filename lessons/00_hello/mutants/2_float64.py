"""the new array is float64, whatever the dtype of x."""

import numpy as np


def swap(world, x):
    arrived = np.empty(x.shape)
    sent = world.send(x, (world.rank + 1) % world.size, ("ring", "swap"))
    world.receive(arrived, (world.rank - 1) % world.size, ("ring", "swap"))
    sent.wait()
    return arrived
