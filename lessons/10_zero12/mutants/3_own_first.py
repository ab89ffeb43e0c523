"""each rank adds in its own order, itself first: the norms differ between ranks in the last digit."""

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
    squares[group.rank] = sum(float(g @ g) for g in shards)
    group.all_gather(squares, NORM)
    square = 0.0
    for ahead in range(group.size):
        square += float(squares[(group.rank + ahead) % group.size])
    norm = square**0.5
    if norm > limit:
        for g in shards:
            g *= limit / norm
    return norm
