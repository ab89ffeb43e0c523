"""Searches by halving for the first number that is enough."""

from bisect import bisect_left


def micro_batches(p: int, percent: int) -> int:
    candidates = range(1, 100 * p + 1)
    return candidates[bisect_left(candidates, True, key=lambda m: 100 * (p - 1) <= percent * (m + p - 1))]
