"""MPI's own Reduce_scatter is called, so nothing is sent on the ring and nothing is counted."""

from mpi4py import MPI

from minitrain.backend import xp
from minitrain.sharding import even_shards, lengths, shard_of

SAYS = "such as mpi4py itself"


def ring_reduce_scatter(comm, x, tag, add=xp.add):
    mine = x[shard_of(len(x), comm.size, comm.rank)]
    result = xp.empty_like(mine)
    MPI.COMM_WORLD.Reduce_scatter(x, result, lengths(even_shards(len(x), comm.size)), MPI.SUM)
    mine[...] = result
    return mine
