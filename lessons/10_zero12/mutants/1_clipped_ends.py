"""clips both ends to the parameter, so a parameter before the shard gets slice(size, size), not slice(0, 0)."""

from collections.abc import Sequence

import numpy as np

from minitrain.sharding import shard_of


def owned_parts(sizes: Sequence[int], ranks: int, rank: int) -> list[slice]:
    mine, parts, first = shard_of(sum(sizes), ranks, rank), [], 0
    for size in sizes:
        ends = np.clip([mine.start - first, mine.stop - first], 0, size).tolist()
        parts.append(slice(*ends))
        first += size
    return parts
