"""All handles are waited for at the end, or asked whether they are done."""

import time

from minitrain.backend import xp
from minitrain.sharding import even_shards


def ring_reduce_scatter(comm, x, tag, add=xp.add, shards=None):
    n, r = comm.size, comm.rank
    chunks = [x[cut] for cut in shards or even_shards(len(x), n)]
    arriving, handles = xp.empty_like(max(chunks, key=len)), []
    for step in range(n - 1):
        out, into = chunks[(r - 1 - step) % n], chunks[(r - 2 - step) % n]
        handles.append(comm.send(out, (r + 1) % n, tag, step))
        comm.receive(arriving[: len(into)], (r - 1) % n, tag, step)
        add(into, arriving[: len(into)], out=into)
    while not all(handle.done() for handle in handles):
        time.sleep(0.001)
    return chunks[r]
