"""the handle is never waited for: x may still be on its way when the caller changes it."""

import numpy as np

SAYS = "wait for the handle of send"  # what else is wrong depends on which message is faster


def swap(world, x):
    arrived = np.empty_like(x)
    world.send(x, (world.rank + 1) % world.size, ("ring", "swap"))
    world.receive(arrived, (world.rank - 1) % world.size, ("ring", "swap"))
    return arrived
