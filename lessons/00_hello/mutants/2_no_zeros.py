"""a rank whose array is all zeros sends nothing, and the next rank waits forever."""

import numpy as np

SAYS = "all zeros on rank"


def swap(world, x):
    arrived = np.empty_like(x)
    sent = world.send(x, (world.rank + 1) % world.size, ("ring", "swap")) if x.any() else None
    world.receive(arrived, (world.rank - 1) % world.size, ("ring", "swap"))
    if sent:
        sent.wait()
    return arrived
