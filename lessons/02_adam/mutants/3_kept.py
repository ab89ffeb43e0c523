"""what was returned for as many layers and values is returned again."""

from itertools import pairwise

KEPT = {}


def adam_bytes(sizes):
    return KEPT.setdefault((len(sizes), sum(sizes)), 8 * sum(n * m + m for n, m in pairwise(sizes)))
