"""Sums the buckets' squares one by one, and returns a NumPy float."""

from collections.abc import Sequence

import numpy as np

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.zero import NORM


def clip_shares(shards: Sequence[Array], group: Communicator, limit: float) -> float:
    """Scale the gradient down to norm `limit` if it is longer; return its original norm, equal on all ranks.

    shards: this rank's shard of each bucket's gradient, changed in place. All ranks' shards form the gradient.
    """
    squares = np.array([np.sum(np.square(g, dtype=np.float64)) for g in shards])
    group.all_reduce(squares, NORM)
    norm = np.sqrt(squares.sum())
    for g in shards:
        g[...] = g if norm <= limit else g * (limit / norm)
    return norm
