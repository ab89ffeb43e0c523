"""each chunk goes straight to its owner: as many bytes, but every rank sends to every other, not on a ring."""

from minitrain.backend import xp
from minitrain.sharding import shard_of


def ring_reduce_scatter(comm, x, tag, add=xp.add):
    n, r = comm.size, comm.rank
    mine = x[shard_of(len(x), n, r)]
    sent = [comm.send(x[shard_of(len(x), n, other)], other, tag) for other in range(n) if other != r]
    arriving = xp.empty_like(mine)
    for other in range(n):
        if other != r:
            comm.receive(arriving, other, tag)
            add(mine, arriving, out=mine)
    for handle in sent:
        handle.wait()
    return mine
