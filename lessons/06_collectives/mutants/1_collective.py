"""the communicator's own collective is called instead of send and receive."""

from minitrain.backend import xp

SAYS = "was a collective called"


def ring_reduce_scatter(comm, x, tag, add=xp.add):
    return comm.reduce_scatter(x, tag)
