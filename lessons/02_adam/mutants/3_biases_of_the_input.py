"""b has the length of a layer's input instead of its output."""

from itertools import pairwise


def adam_bytes(sizes):
    parameters = sum(n * m + n for n, m in pairwise(sizes))
    return 2 * 4 * parameters
