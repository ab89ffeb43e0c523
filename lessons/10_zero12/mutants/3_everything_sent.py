"""all gradients are sent to all ranks to compute one number."""

from collections.abc import Sequence

import numpy as np

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.zero import NORM


def clip_shares(shards: Sequence[Array], group: Communicator, limit: float) -> float:
    """Shortens the gradient to `limit` if it is longer, and returns the length that it had, the same on all ranks.

    shares: this rank's share of each bucket's gradient, changed in place. The shares of all ranks are the gradient.
    """
    square = 0.0
    for g in shards:
        most = np.array([len(g)])
        group.all_reduce(most, NORM, op="max")
        whole = np.zeros((group.size, int(most[0])))
        whole[group.rank, : len(g)] = g
        group.all_reduce(whole, NORM)
        square += float((whole**2).sum())
    norm = square**0.5
    if norm > limit:
        for g in shards:
            g *= limit / norm
    return norm
