"""the message is cut into pieces so small that MPI puts them aside; how small that is, nobody promises."""

import numpy as np


def swap(world, x):
    arrived = np.empty_like(x)
    for start in range(0, len(x), 400):
        piece = slice(start, start + 400)
        world.send(x[piece], (world.rank + 1) % world.size, ("ring", "swap")).wait()
        world.receive(arrived[piece], (world.rank - 1) % world.size, ("ring", "swap"))
    return arrived
