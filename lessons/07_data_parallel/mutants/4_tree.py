"""as many rounds as a tree has levels: a ring has N - 1 in each phase."""

from math import ceil, log2


def bytes_of_a_step(parameters: int, ranks: int) -> int:
    return 2 * 4 * parameters * ceil(log2(ranks))
