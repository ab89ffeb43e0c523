"""returns the norm after clipping."""

from collections.abc import Sequence

import numpy as np

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.zero import NORM


def clip_shares(shards: Sequence[Array], group: Communicator, limit: float) -> float:
    square = np.array([sum(float(g @ g) for g in shards)])
    group.all_reduce(square, NORM)
    norm = float(square[0]) ** 0.5
    if norm > limit:
        for g in shards:
            g *= limit / norm
        norm = limit
    return norm
