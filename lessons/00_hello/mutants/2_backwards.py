"""the ring runs backwards, which does not show with two ranks."""

import numpy as np


def swap(world, x):
    arrived = np.empty_like(x)
    sent = world.send(x, (world.rank - 1) % world.size, ("ring", "swap"))
    world.receive(arrived, (world.rank + 1) % world.size, ("ring", "swap"))
    sent.wait()
    return arrived
