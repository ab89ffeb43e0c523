"""each chunk goes straight to its owner: as many bytes, but every rank talks to every other, not on a ring."""

from minitrain.backend import xp
from minitrain.shares import share


def ring_reduce_scatter(comm, x, tag, add=xp.add):
    n, r = comm.size, comm.rank
    mine = x[share(len(x), n, r)]
    sent = [comm.send(x[share(len(x), n, other)], other, tag) for other in range(n) if other != r]
    arriving = xp.empty_like(mine)
    for other in range(n):
        if other != r:
            comm.receive(arriving, other, tag)
            add(mine, arriving, out=mine)
    for handle in sent:
        handle.wait()
    return mine
