"""Gathers one square of each rank, and every rank adds them up in the same order."""

from collections.abc import Sequence
from math import sqrt

import numpy as np

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.zero import NORM


def clip_shares(shards: Sequence[Array], group: Communicator, limit: float) -> float:
    squares = np.zeros(group.size)
    squares[group.rank] = sum(float(np.dot(g, g)) for g in shards)
    group.all_gather(squares, NORM)
    norm = sqrt(sum(squares.tolist()))
    for g in shards:
        np.multiply(g, limit / max(limit, norm), out=g)
    return norm
