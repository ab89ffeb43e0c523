"""the array is cut into at most three chunks, even with more ranks."""

from minitrain.sharding import shard_of


def ring_broadcast(comm, x, root, tag):
    n, place = comm.size, (comm.rank - root) % comm.size
    sent = []
    for step in range(min(n, 3)):
        chunk = x[shard_of(len(x), min(n, 3), step)]
        if place > 0:
            comm.receive(chunk, (comm.rank - 1) % n, tag, step)
        if place < n - 1:
            sent.append(comm.send(chunk, (comm.rank + 1) % n, tag, step))
    for handle in sent:
        handle.wait()
