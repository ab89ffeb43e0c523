"""every send is waited for before the next chunk is received: receiving and sending take turns."""

from minitrain.sharding import shard_of


def ring_broadcast(comm, x, root, tag):
    n, place = comm.size, (comm.rank - root) % comm.size
    for step in range(n):
        chunk = x[shard_of(len(x), n, step)]
        if place:
            comm.receive(chunk, (comm.rank - 1) % n, tag)
        if place + 1 < n:
            comm.send(chunk, (comm.rank + 1) % n, tag).wait()
