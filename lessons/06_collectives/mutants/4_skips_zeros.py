"""a chunk of zeros is not forwarded, and the next rank waits for it forever."""

from minitrain.sharding import shard_of

SAYS = "all zeros on rank"


def ring_broadcast(comm, x, root, tag):
    n, place = comm.size, (comm.rank - root) % comm.size
    sent = []
    for step in range(n):
        chunk = x[shard_of(len(x), n, step)]
        if place > 0:
            comm.receive(chunk, (comm.rank - 1) % n, tag, step)
        if place < n - 1 and (chunk.any() or not len(chunk)):
            sent.append(comm.send(chunk, (comm.rank + 1) % n, tag, step))
    for handle in sent:
        handle.wait()
