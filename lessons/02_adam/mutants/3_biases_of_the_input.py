"""b is as long as a layer's input, not as its output."""

from itertools import pairwise


def adam_bytes(sizes):
    parameters = sum(n * m + n for n, m in pairwise(sizes))
    return 2 * 4 * parameters
