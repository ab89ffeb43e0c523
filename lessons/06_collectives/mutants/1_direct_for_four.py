"""with four or more ranks, each chunk goes straight to its owner: as many bytes, but not on the ring."""

from minitrain.backend import xp
from minitrain.sharding import even_shards


def ring_reduce_scatter(comm, x, tag, add=xp.add, shards=None):
    n, r = comm.size, comm.rank
    chunks = [x[cut] for cut in shards or even_shards(len(x), n)]
    arriving = xp.empty_like(max(chunks, key=len))
    if n > 3:
        handles = [comm.send(chunks[other], other, tag) for other in range(n) if other != r]
        for other in [(r + 1 + hop) % n for hop in range(n - 1)]:
            comm.receive(arriving[: len(chunks[r])], other, tag)
            add(chunks[r], arriving[: len(chunks[r])], out=chunks[r])
        for sent in handles:
            sent.wait()
        return chunks[r]
    for step in range(n - 1):
        out, into = chunks[(r - 1 - step) % n], chunks[(r - 2 - step) % n]
        sent = comm.send(out, (r + 1) % n, tag, step)
        comm.receive(arriving[: len(into)], (r - 1) % n, tag, step)
        add(into, arriving[: len(into)], out=into)
        sent.wait()
    return chunks[r]
