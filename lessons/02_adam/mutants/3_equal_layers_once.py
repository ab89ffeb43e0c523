"""layers of the same sizes are counted once."""

from itertools import pairwise


def adam_bytes(sizes):
    return 2 * 4 * sum(n * m + m for n, m in set(pairwise(sizes)))
