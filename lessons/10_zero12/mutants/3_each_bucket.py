"""each bucket is scaled separately: the direction of the whole gradient changes."""

from collections.abc import Sequence

import numpy as np

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.zero import NORM


def clip_shares(shards: Sequence[Array], group: Communicator, limit: float) -> float:
    """Shortens the gradient to `limit` if it is longer, and returns the length that it had, the same on all ranks.

    shares: this rank's share of each bucket's gradient, changed in place. The shares of all ranks are the gradient.
    """
    squares = np.array([float(g @ g) for g in shards])
    group.all_reduce(squares, NORM)
    for g, square in zip(shards, squares, strict=True):
        g *= min(1.0, limit / float(square) ** 0.5) if square else 1.0
    return float(squares.sum()) ** 0.5
