"""A copy of x is sent, without its axes, and what comes gets its axes afterwards."""

import numpy as np


def swap(world, x):
    flat = x.reshape(-1).copy()
    arrived = np.full(flat.size, 7, flat.dtype)
    sent = world.send(flat, (world.rank + 1) % world.size, ("ring", "swap"))
    world.receive(arrived, (world.rank - 1) % world.size, ("ring", "swap"))
    sent.wait()
    return arrived.reshape(x.shape)
