"""the sum stands in share r of x, but share r + 1 is returned."""

from minitrain.backend import xp
from minitrain.shares import share


def ring_reduce_scatter(comm, x, tag, add=xp.add):
    n, r = comm.size, comm.rank
    arriving = xp.empty(share(len(x), n, 0).stop, x.dtype)
    for step in range(n - 1):
        out, into = x[share(len(x), n, (r - 1 - step) % n)], x[share(len(x), n, (r - 2 - step) % n)]
        sent = comm.send(out, (r + 1) % n, tag, step)
        comm.receive(arriving[: len(into)], (r - 1) % n, tag, step)
        add(into, arriving[: len(into)], out=into)
        sent.wait()
    return x[share(len(x), n, (r + 1) % n)]
