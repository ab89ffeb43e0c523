"""adds the ranks' squares up beginning with its own, so the sums differ in the last bit between ranks."""

from collections.abc import Sequence

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator


def clip_shares(shards: Sequence[Array], group: Communicator, limit: float) -> float:
    square = sum(float(g @ g) for g in shards)
    for other, more in enumerate(group.gather_objects(square)):
        if other != group.rank:
            square += more
    norm = square**0.5
    if norm > limit:
        for g in shards:
            g *= limit / norm
    return norm
