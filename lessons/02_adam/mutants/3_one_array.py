"""one number per parameter is counted, but Adam keeps two, m and v."""

from itertools import pairwise


def adam_bytes(sizes):
    parameters = sum(n * m + m for n, m in pairwise(sizes))
    return 4 * parameters
