"""Empty chunks are neither sent nor received."""

from minitrain.backend import xp
from minitrain.sharding import even_shards


def ring_reduce_scatter(comm, x, tag, add=xp.add, shards=None):
    n, r = comm.size, comm.rank
    chunks = [x[cut] for cut in shards or even_shards(len(x), n)]
    for step in range(n - 1):
        out, into = chunks[(r - 1 - step) % n], chunks[(r - 2 - step) % n]
        sent = comm.send(out, (r + 1) % n, tag, step) if len(out) else None
        if len(into):
            arriving = xp.empty_like(into)
            comm.receive(arriving, (r - 1) % n, tag, step)
            add(into, arriving, out=into)
        if sent:
            sent.wait()
    return chunks[r]
