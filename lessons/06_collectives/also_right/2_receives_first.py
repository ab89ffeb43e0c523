"""Rank 0 receives before it sends, and all others send first; the handles are waited for last."""

from minitrain.sharding import even_shards


def ring_all_gather(comm, x, tag, shards=None):
    n, r = comm.size, comm.rank
    chunks, handles = [x[cut] for cut in shards or even_shards(len(x), n)], []
    for step in range(n - 1):
        out, into = chunks[(r - step) % n], chunks[(r - 1 - step) % n]
        if r == 0:
            comm.receive(into, n - 1, tag, step)
        handles.append(comm.send(out, (r + 1) % n, tag, step))
        if r:
            comm.receive(into, r - 1, tag, step)
    for handle in handles:
        handle.wait()
