"""w is counted, but it is not optimizer state."""

from itertools import pairwise


def adam_bytes(sizes):
    parameters = sum(n * m + m for n, m in pairwise(sizes))
    return 3 * 4 * parameters
