"""the chunks are off by one: rank r completes the sum of chunk r + 1 and returns chunk r."""

from minitrain.backend import xp
from minitrain.sharding import shard_of


def ring_reduce_scatter(comm, x, tag, add=xp.add):
    n, r = comm.size, comm.rank
    arriving = xp.empty(shard_of(len(x), n, 0).stop, x.dtype)
    for step in range(n - 1):
        out, into = x[shard_of(len(x), n, (r - step) % n)], x[shard_of(len(x), n, (r - 1 - step) % n)]
        sent = comm.send(out, (r + 1) % n, tag, step)
        comm.receive(arriving[: len(into)], (r - 1) % n, tag, step)
        add(into, arriving[: len(into)], out=into)
        sent.wait()
    return x[shard_of(len(x), n, r)]
