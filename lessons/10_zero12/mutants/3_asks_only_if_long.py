"""only a rank whose own shards exceed the limit calls the all-reduce, and the others do not join it."""

from collections.abc import Sequence

import numpy as np

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.zero import NORM

SAYS = "ranks differ in operation"


def clip_shares(shards: Sequence[Array], group: Communicator, limit: float) -> float:
    """Shortens the gradient to `limit` if it is longer, and returns the length that it had, the same on all ranks.

    shares: this rank's share of each bucket's gradient, changed in place. The shares of all ranks are the gradient.
    """
    square = np.array([sum(float(g @ g) for g in shards)])
    if float(square[0]) ** 0.5 > limit:
        group.all_reduce(square, NORM)
    norm = float(square[0]) ** 0.5
    if norm > limit:
        for g in shards:
            g *= limit / norm
    return norm
