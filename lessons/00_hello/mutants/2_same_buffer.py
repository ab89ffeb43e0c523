"""every call returns the same array, so the next call overwrites the previous result."""

import numpy as np

BUFFERS = {}


def swap(world, x):
    arrived = BUFFERS.setdefault((world.rank, x.shape, x.dtype.name), np.empty_like(x))
    sent = world.send(x, (world.rank + 1) % world.size, ("ring", "swap"))
    world.receive(arrived, (world.rank - 1) % world.size, ("ring", "swap"))
    sent.wait()
    return arrived
