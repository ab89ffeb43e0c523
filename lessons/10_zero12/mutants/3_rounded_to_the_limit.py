"""a gradient that exceeds the limit by less than a thousandth stays unchanged."""

from collections.abc import Sequence

import numpy as np

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.zero import NORM


def clip_shares(shards: Sequence[Array], group: Communicator, limit: float) -> float:
    """Scale the gradient down to norm `limit` if it is longer; return its original norm, equal on all ranks.

    shards: this rank's shard of each bucket's gradient, changed in place. All ranks' shards form the gradient.
    """
    square = np.array([sum(float(g @ g) for g in shards)])
    group.all_reduce(square, NORM)
    norm = float(square[0]) ** 0.5
    if norm > limit * 1.001:
        for g in shards:
            g *= limit / norm
    return norm
