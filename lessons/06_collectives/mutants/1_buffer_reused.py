"""chunks are sent from one shared buffer, which is overwritten before the last send is complete."""

from minitrain.backend import xp
from minitrain.sharding import shard_of


def ring_reduce_scatter(comm, x, tag, add=xp.add):
    n, r = comm.size, comm.rank
    arriving = xp.empty(shard_of(len(x), n, 0).stop, x.dtype)
    leaving, sent = xp.empty_like(arriving), []
    for step in range(n - 1):
        out, into = x[shard_of(len(x), n, (r - 1 - step) % n)], x[shard_of(len(x), n, (r - 2 - step) % n)]
        leaving[: len(out)] = out
        sent.append(comm.send(leaving[: len(out)], (r + 1) % n, tag, step))
        comm.receive(arriving[: len(into)], (r - 1) % n, tag, step)
        add(into, arriving[: len(into)], out=into)
    for handle in sent:
        handle.wait()
    return x[shard_of(len(x), n, r)]
