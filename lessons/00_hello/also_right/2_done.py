"""The handle is asked whether it is done, again and again, instead of being waited for."""

import time

import numpy as np


def swap(world, x):
    sent = world.send(x, (world.rank + 1) % world.size, ("ring", "anything"), 3)
    arrived = np.empty_like(x)
    world.receive(arrived, world.rank - 1 if world.rank else world.size - 1, ("ring", "anything"), 3)
    while not sent.done():
        time.sleep(0.001)
    return arrived
