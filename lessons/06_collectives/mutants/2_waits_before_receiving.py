"""every rank waits for its send before it receives: works for small arrays, hangs with large ones."""

from minitrain.sharding import shard_of


def ring_all_gather(comm, x, tag):
    n, r = comm.size, comm.rank
    for step in range(n - 1):
        out, into = x[shard_of(len(x), n, (r - step) % n)], x[shard_of(len(x), n, (r - 1 - step) % n)]
        comm.send(out, (r + 1) % n, tag, step).wait()
        comm.receive(into, (r - 1) % n, tag, step)
