"""the mean of the ranks' squares is taken, not the sum."""

from collections.abc import Sequence

import numpy as np

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.zero import NORM


def clip_shares(shards: Sequence[Array], group: Communicator, limit: float) -> float:
    """Scale the gradient down to norm `limit` > 0 if it is longer; return its original norm.

    shards: this rank's shard of each bucket's gradient, changed in place. All ranks' shards form the gradient. A shard
    may be empty, and the gradient may be 0. The result is the same on all ranks, bit for bit.
    """
    square = np.array([sum(float(g @ g) for g in shards)])
    group.all_reduce(square, NORM)
    norm = float(square[0] / group.size) ** 0.5
    if norm > limit:
        for g in shards:
            g *= limit / norm
    return norm
