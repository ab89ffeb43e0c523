"""Even ranks send and wait before they receive, odd ranks receive first."""

import numpy as np

TAG = ("ring", "swap")


def swap(world, x):
    came, after, before = np.zeros_like(x), (world.rank + 1) % world.size, (world.rank - 1) % world.size
    if world.rank % 2 == 0:
        world.send(x, after, TAG).wait()
        world.receive(came, before, TAG)
    else:
        world.receive(came, before, TAG)
        world.send(x, after, TAG).wait()
    return came
