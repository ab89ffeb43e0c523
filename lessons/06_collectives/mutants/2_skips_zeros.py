"""a chunk of zeros is not sent, and the next rank waits for it forever."""

from minitrain.sharding import even_shards

SAYS = "all zeros on rank"


def ring_all_gather(comm, x, tag, shards=None):
    n, r = comm.size, comm.rank
    chunks = [x[cut] for cut in shards or even_shards(len(x), n)]
    for step in range(n - 1):
        out, into = chunks[(r - step) % n], chunks[(r - 1 - step) % n]
        sent = comm.send(out, (r + 1) % n, tag, step) if out.any() or not len(out) else None
        comm.receive(into, (r - 1) % n, tag, step)
        if sent:
            sent.wait()
