"""a float is returned; bytes are integers."""

from itertools import pairwise


def adam_bytes(sizes):
    return 2 * 32 / 8 * sum(n * m + m for n, m in pairwise(sizes))
