"""every rank receives first, and nobody has sent anything."""

import numpy as np

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator

SAYS = "waits in receive from rank"


def swap(world: Communicator, x: Array) -> Array:
    """Send x to the next rank of a ring of two or more; return what the rank before has sent.

    That is a new array with the shape and dtype of x. Messages may be too large for any MPI to buffer.
    """
    arrived = np.empty_like(x)
    world.receive(arrived, (world.rank - 1) % world.size, ("ring", "swap"))
    world.send(x, (world.rank + 1) % world.size, ("ring", "swap")).wait()
    return arrived
