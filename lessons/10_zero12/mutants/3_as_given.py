"""as it was given: the length is that of the rank's own shares, so each rank shortens by another factor."""

from collections.abc import Sequence

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator


def clip_shares(even_shards: Sequence[Array], group: Communicator, limit: float) -> float:
    """Shortens the gradient to `limit` if it is longer, and returns the length that it had, the same on all ranks.

    shares: this rank's share of each bucket's gradient, changed in place. The shares of all ranks are the gradient.
    """
    norm = sum(float(g @ g) for g in even_shards) ** 0.5
    if norm > limit:
        for g in even_shards:
            g *= limit / norm
    return norm
