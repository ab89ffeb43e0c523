"""a number is taken to have 8 bytes; in float32 it has 4."""

from itertools import pairwise


def adam_bytes(sizes):
    parameters = sum(n * m + m for n, m in pairwise(sizes))
    return 2 * 8 * parameters
