"""Adds up over ranks an array of one square for each bucket, and takes the norm of its roots."""

from collections.abc import Sequence

import numpy as np

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.zero import NORM


def clip_shares(shards: Sequence[Array], group: Communicator, limit: float) -> float:
    squares = np.array([np.vdot(g, g) for g in shards], dtype=np.float64)
    group.all_reduce(squares, NORM)
    norm = float(np.linalg.norm(np.sqrt(squares)))
    if not norm > limit:
        return norm
    for k in range(len(shards)):
        shards[k][...] = shards[k] * (limit / norm)
    return norm
