"""the message is cut into pieces small enough for MPI to buffer: no size is guaranteed to be."""

import numpy as np


def swap(world, x):
    arrived = np.empty_like(x)
    for start in range(0, len(x), 400):
        piece = slice(start, start + 400)
        world.send(x[piece], (world.rank + 1) % world.size, ("ring", "swap")).wait()
        world.receive(arrived[piece], (world.rank - 1) % world.size, ("ring", "swap"))
    return arrived
