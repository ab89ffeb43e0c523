"""the result is the number of values, not of bytes."""

from itertools import pairwise


def adam_bytes(sizes):
    parameters = sum(n * m + m for n, m in pairwise(sizes))
    return 2 * parameters
