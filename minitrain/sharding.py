"""Dividing n items into parts, with or without a remainder.

One rule divides samples among ranks, samples among micro-batches, and elements of a buffer among ranks, so that
any two places that divide the same items agree on the boundaries.
"""

import math
from collections.abc import Sequence

import numpy as np

Shards = Sequence[slice]  # each rank's slice of an array's first axis; in order, they cover it


def shard_of(n: int, parts: int, i: int) -> slice:
    """Return the i-th of `parts` consecutive slices that cover 0 to n - 1 as evenly as possible.

    Each starts where the one before it stops, even if it is empty; with more parts than items, the last ones are empty.
    The first n % parts slices are one longer than the rest. Raise ValueError unless 0 <= i < parts.

    >>> [shard_of(8, 3, i) for i in range(3)]
    [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None)]
    """
    if not 0 <= i < parts:
        raise ValueError(f"part {i} does not exist: there are {parts} parts, counted from 0")
    base, longer = divmod(n, parts)
    start = i * base + min(i, longer)
    return slice(start, start + base + (i < longer))


def even_shards(n: int, parts: int) -> list[slice]:
    """Return the slices of all parts, in order."""
    return [shard_of(n, parts, i) for i in range(parts)]


def lengths(shards: Shards) -> list[int]:
    """Return the lengths of the slices."""
    return [shard.stop - shard.start for shard in shards]


def runs_of(shape: tuple[int, ...], index: tuple[slice, ...]) -> tuple[np.ndarray, int]:
    """Return where the slice `index` of a tensor lies in the flattened tensor: its runs' starts, (n), and their length.

    There is one run per position on the axes before the last one that is cut.

    >>> runs_of((2, 4), (slice(0, 2), slice(1, 3)))
    (array([1, 5]), 2)
    """
    if not shape:
        return np.zeros(1, np.int64), 1
    cut = max((axis for axis, n in enumerate(shape) if (index[axis].start, index[axis].stop) != (0, n)), default=0)
    starts = np.zeros(1, np.int64)
    for axis in range(cut):
        starts = (starts[:, None] * shape[axis] + np.arange(index[axis].start, index[axis].stop)).reshape(-1)
    behind = math.prod(shape[cut + 1 :])
    return (starts * shape[cut] + index[cut].start) * behind, (index[cut].stop - index[cut].start) * behind
