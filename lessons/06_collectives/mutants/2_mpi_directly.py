"""MPI's own Allreduce is called on an array with zeros around the rank's own shard."""

from mpi4py import MPI

from minitrain.sharding import shard_of

SAYS = "such as mpi4py itself"


def ring_all_gather(comm, x, tag):
    n, r = comm.size, comm.rank
    mine = x[shard_of(len(x), n, r)].copy()
    x[...] = 0
    x[shard_of(len(x), n, r)] = mine
    MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, x, MPI.SUM)
