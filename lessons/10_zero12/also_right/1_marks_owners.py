"""Writes down each number's owner, and looks for its own in each parameter."""

from collections.abc import Sequence

import numpy as np


def owned_parts(sizes: Sequence[int], ranks: int, rank: int) -> list[slice]:
    n = int(sum(sizes))
    owner = np.repeat(np.arange(ranks), [len(part) for part in np.array_split(np.empty(n, bool), ranks)])
    parts = []
    for size in sizes:
        owners, owner = owner[:size], owner[size:]
        places = np.flatnonzero(owners == rank)
        parts.append(slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0))
    return parts
