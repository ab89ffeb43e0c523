"""Every rank gets all ranks' squares and adds them in the same order."""

from collections.abc import Sequence

import numpy as np

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.zero import NORM


def clip_shares(shards: Sequence[Array], group: Communicator, limit: float) -> float:
    """Scale the gradient down to norm `limit` if it is longer; return its original norm, equal on all ranks.

    shards: this rank's shard of each bucket's gradient, changed in place. All ranks' shards form the gradient.
    """
    squares = np.zeros(group.size)
    squares[group.rank] = sum(np.linalg.norm(g.astype(np.float64)) ** 2 for g in shards)
    group.all_gather(squares, NORM)
    norm = float(np.linalg.norm(np.sqrt(squares)))
    factor = 1.0 if norm == 0 else min(1.0, limit / norm)
    for g in shards:
        np.multiply(g, factor, out=g)
    return norm
