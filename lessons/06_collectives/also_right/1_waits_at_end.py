"""Waits for all messages after the loop: no chunk changes any more once it has been sent."""

import itertools

from minitrain.backend import Array, xp
from minitrain.comm.communicator import Communicator, Tag
from minitrain.comm.ring import Add
from minitrain.sharding import Shards, even_shards


def ring_reduce_scatter(
    comm: Communicator, x: Array, tag: Tag, add: Add = xp.add, shards: Shards | None = None
) -> Array:
    cuts = even_shards(len(x), comm.size) if shards is None else shards
    after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    order = [x[cuts[c % comm.size]] for c in range(comm.rank - 1, comm.rank - 1 - comm.size, -1)]
    handles = []
    for leaving, mine in itertools.pairwise(order):
        handles.append(comm.send(leaving, after, tag))
        arriving = xp.empty_like(mine)
        comm.receive(arriving, before, tag)
        add(mine, arriving, out=mine)
    for handle in handles:
        handle.wait()
    return order[-1]
