"""every call returns the same array: the next one writes over what the last one has returned."""

import numpy as np

BUFFERS = {}


def swap(world, x):
    arrived = BUFFERS.setdefault((world.rank, x.shape, x.dtype.name), np.empty_like(x))
    sent = world.send(x, (world.rank + 1) % world.size, ("ring", "swap"))
    world.receive(arrived, (world.rank - 1) % world.size, ("ring", "swap"))
    sent.wait()
    return arrived
