"""w is counted, too, and it is no optimizer state."""

from itertools import pairwise


def adam_bytes(sizes):
    parameters = sum(n * m + m for n, m in pairwise(sizes))
    return 3 * 4 * parameters
