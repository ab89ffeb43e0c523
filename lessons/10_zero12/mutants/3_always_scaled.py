"""short gradients are scaled up: only a gradient longer than the limit may change."""

from collections.abc import Sequence

import numpy as np

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.zero import NORM


def clip_shares(shards: Sequence[Array], group: Communicator, limit: float) -> float:
    """Shortens the gradient to `limit` if it is longer, and returns the length that it had, the same on all ranks.

    shares: this rank's share of each bucket's gradient, changed in place. The shares of all ranks are the gradient.
    """
    square = np.array([sum(float(g @ g) for g in shards)])
    group.all_reduce(square, NORM)
    norm = float(square[0]) ** 0.5
    for g in shards:
        g *= limit / norm
    return norm
