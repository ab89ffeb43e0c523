"""a layer with one output is given no bias."""

from itertools import pairwise


def adam_bytes(sizes):
    return 8 * sum(n * m + (m if m > 1 else 0) for n, m in pairwise(sizes))
