"""the vectors b are not counted."""

from itertools import pairwise


def adam_bytes(sizes):
    parameters = sum(n * m for n, m in pairwise(sizes))
    return 2 * 4 * parameters
