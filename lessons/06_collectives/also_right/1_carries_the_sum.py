"""Carries the partial sum in arrays of its own and leaves x alone until the shard is complete."""

from minitrain.backend import Array, xp
from minitrain.comm.communicator import Communicator, Tag
from minitrain.comm.ring import Add
from minitrain.sharding import Shards, even_shards


def ring_reduce_scatter(
    comm: Communicator, x: Array, tag: Tag, add: Add = xp.add, shards: Shards | None = None
) -> Array:
    n, r = comm.size, comm.rank
    cuts = list(even_shards(len(x), n) if shards is None else shards)
    carried = x[cuts[(r - 1) % n]].copy()
    for hop in range(2, n + 1):
        here = x[cuts[(r - hop) % n]]
        arriving = xp.empty(here.shape, here.dtype)
        sent = comm.send(carried, (r + 1) % n, tag, hop)
        comm.receive(arriving, (r - 1) % n, tag, hop)
        add(arriving, here, out=arriving)
        sent.wait()
        carried = arriving
    shard = x[cuts[r]]
    shard[...] = carried
    return shard
