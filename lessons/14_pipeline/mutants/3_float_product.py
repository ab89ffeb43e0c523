"""(p - 1) (100 / percent - 1) in floating point may come out just above a whole number, and is then rounded up."""

from math import ceil


def micro_batches(p: int, percent: int) -> int:
    return max(1, ceil((p - 1) * (100 / percent - 1)))
