"""with four or more ranks, each sends its chunk to all others: as many bytes, but not on the ring."""

from minitrain.sharding import even_shards


def ring_all_gather(comm, x, tag, shards=None):
    n, r = comm.size, comm.rank
    chunks = [x[cut] for cut in shards or even_shards(len(x), n)]
    if n > 3:
        handles = [comm.send(chunks[r], other, tag) for other in range(n) if other != r]
        for other in range(n):
            if other != r:
                comm.receive(chunks[other], other, tag)
        for sent in handles:
            sent.wait()
        return
    for step in range(n - 1):
        out, into = chunks[(r - step) % n], chunks[(r - 1 - step) % n]
        sent = comm.send(out, (r + 1) % n, tag, step)
        comm.receive(into, (r - 1) % n, tag, step)
        sent.wait()
