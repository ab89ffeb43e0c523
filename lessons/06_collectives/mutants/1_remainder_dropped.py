"""all chunks have n // N numbers, and the remainder belongs to no rank."""

from minitrain.backend import xp


def ring_reduce_scatter(comm, x, tag, add=xp.add):
    n, r = comm.size, comm.rank
    length = len(x) // n
    arriving = xp.empty(length, x.dtype)
    for step in range(n - 1):
        out, into = (x[c * length : (c + 1) * length] for c in ((r - 1 - step) % n, (r - 2 - step) % n))
        sent = comm.send(out, (r + 1) % n, tag, step)
        comm.receive(arriving, (r - 1) % n, tag, step)
        add(into, arriving, out=into)
        sent.wait()
    return x[r * length : (r + 1) * length]
