"""Clips all borders at once, then multiplies what is empty by 0; the slices are of NumPy's integers."""

from collections.abc import Sequence

import numpy as np

from minitrain.sharding import shard_of


def owned_parts(sizes: Sequence[int], ranks: int, rank: int) -> list[slice]:
    lengths = np.asarray(sizes, dtype=np.int64)
    firsts = np.cumsum(lengths) - lengths
    mine = shard_of(int(lengths.sum()), ranks, rank)
    starts = np.maximum(mine.start - firsts, 0)
    stops = np.minimum(mine.stop - firsts, lengths)
    there = starts < stops
    return list(map(slice, starts * there, stops * there))
