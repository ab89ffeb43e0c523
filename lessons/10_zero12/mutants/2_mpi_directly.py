"""MPI is called directly, not through the communicator, so nothing is counted."""

import numpy as np
from mpi4py import MPI

from minitrain.sharding import shard_of

SAYS = "nor a library such as mpi4py itself"


def zero1_step(w, g, group, update):
    mine = shard_of(len(w), group.size, group.rank)
    if group.size > 1:
        MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, g, MPI.SUM)
    update(w[mine], g[mine])
    if group.size > 1:
        w[...] = np.concatenate(MPI.COMM_WORLD.allgather(w[mine].copy()))
