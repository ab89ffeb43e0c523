"""the first chunk is forwarded at once, but the others only after all have arrived."""

from minitrain.sharding import shard_of


def ring_broadcast(comm, x, root, tag):
    n, place = comm.size, (comm.rank - root) % comm.size
    chunks, sent = [x[shard_of(len(x), n, step)] for step in range(n)], []
    for some in (chunks[:1], chunks[1:]):
        for chunk in some:
            if place > 0:
                comm.receive(chunk, (comm.rank - 1) % n, tag)
        if place < n - 1:
            sent.extend([comm.send(chunk, (comm.rank + 1) % n, tag) for chunk in some])
    for handle in sent:
        handle.wait()
