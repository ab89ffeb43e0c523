"""Even ranks send and wait before they receive, odd ranks receive first; add is called without out."""

from minitrain.backend import xp
from minitrain.sharding import even_shards


def ring_reduce_scatter(comm, x, tag, add=xp.add, shards=None):
    n, r = comm.size, comm.rank
    chunks = [x[cut] for cut in shards or even_shards(len(x), n)]
    for step in range(n - 1):
        out, into = chunks[(r - 1 - step) % n], chunks[(r - 2 - step) % n]
        arriving = into.copy()
        if r % 2 == 0:
            comm.send(out, (r + 1) % n, tag).wait()
        comm.receive(arriving, (r - 1) % n, tag)
        if r % 2:
            comm.send(out, (r + 1) % n, tag).wait()
        into[...] = add(into, arriving)
    return chunks[r]
