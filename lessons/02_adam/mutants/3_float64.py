"""8 bytes are taken for a number: float32 has 4."""

from itertools import pairwise


def adam_bytes(sizes):
    parameters = sum(n * m + m for n, m in pairwise(sizes))
    return 2 * 8 * parameters
