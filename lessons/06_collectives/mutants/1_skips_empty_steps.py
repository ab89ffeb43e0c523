"""a step without anything to send is skipped, receive included: wrong with fewer elements than ranks."""

from minitrain.backend import Array, xp
from minitrain.comm.communicator import Communicator, Tag
from minitrain.comm.ring import Add
from minitrain.sharding import Shards, even_shards


def ring_reduce_scatter(
    comm: Communicator, x: Array, tag: Tag, add: Add = xp.add, shards: Shards | None = None
) -> Array:
    n, r = comm.size, comm.rank
    cuts = even_shards(len(x), n) if shards is None else shards
    for step in range(n - 1):
        leaving, mine = x[cuts[(r - 1 - step) % n]], x[cuts[(r - 2 - step) % n]]
        if not len(leaving):
            continue
        arriving = xp.empty_like(mine)
        sent = comm.send(leaving, (r + 1) % n, tag)
        comm.receive(arriving, (r - 1) % n, tag)
        add(mine, arriving, out=mine)
        sent.wait()
    return x[cuts[r]]
