"""the whole array is sent in each step instead of a chunk."""

from minitrain.backend import xp
from minitrain.sharding import shard_of


def ring_reduce_scatter(comm, x, tag, add=xp.add):
    n, r = comm.size, comm.rank
    arriving = xp.empty_like(x)
    for step in range(n - 1):
        cut = shard_of(len(x), n, (r - 2 - step) % n)
        sent = comm.send(x.copy(), (r + 1) % n, tag, step)
        comm.receive(arriving, (r - 1) % n, tag, step)
        add(x[cut], arriving[cut], out=x[cut])
        sent.wait()
    return x[shard_of(len(x), n, r)]
