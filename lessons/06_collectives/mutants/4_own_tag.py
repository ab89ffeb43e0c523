"""the argument tag is ignored: the bytes are counted under another name."""

from minitrain.sharding import shard_of


def ring_broadcast(comm, x, root, tag):
    n, place = comm.size, (comm.rank - root) % comm.size
    sent = []
    for step in range(n):
        chunk = x[shard_of(len(x), n, step)]
        if place > 0:
            comm.receive(chunk, (comm.rank - 1) % n, ("ring", "broadcast"), step)
        if place < n - 1:
            sent.append(comm.send(chunk, (comm.rank + 1) % n, ("ring", "broadcast"), step))
    for handle in sent:
        handle.wait()
