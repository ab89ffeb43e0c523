"""NumPy integers, a step of 1, and a tuple."""

import numpy as np


def owned_parts(sizes, ranks, rank):
    base, longer = np.divmod(np.sum(sizes), ranks)
    start = rank * base + np.minimum(rank, longer)
    begins = np.cumsum(sizes) - sizes
    lo, hi = np.clip([start - begins, start + base + (rank < longer) - begins], 0, sizes)
    return tuple(slice(a, b, 1) if a < b else slice(0, 0) for a, b in zip(lo, hi, strict=True))
