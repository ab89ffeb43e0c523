"""MPI's own Sendrecv is called, not the communicator, so no message is counted."""

import numpy as np
from mpi4py import MPI

SAYS = "such as mpi4py"


def swap(world, x):
    arrived = np.empty_like(x)
    after, before = (world.rank + 1) % world.size, (world.rank - 1) % world.size
    MPI.COMM_WORLD.Sendrecv(x, after, recvbuf=arrived, source=before)
    return arrived
