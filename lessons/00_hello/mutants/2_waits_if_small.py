"""small arrays are waited for before anything is received: MPI need not buffer them."""

import numpy as np

SAYS = "does not come to receive"


def swap(world, x):
    arrived = np.empty_like(x)
    sent = world.send(x, (world.rank + 1) % world.size, ("ring", "swap"))
    if x.nbytes < 1000:
        sent.wait()
    world.receive(arrived, (world.rank - 1) % world.size, ("ring", "swap"))
    sent.wait()
    return arrived
