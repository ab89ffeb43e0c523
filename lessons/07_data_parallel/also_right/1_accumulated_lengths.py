"""Accumulates the lengths of all parts before it."""

from itertools import accumulate, repeat


def shard_of(n: int, parts: int, i: int) -> slice:
    if i not in range(parts):
        raise ValueError(f"{i} is not one of {parts} parts")
    longer = n % parts
    lengths = [*repeat(n // parts + 1, longer), *repeat(n // parts, parts - longer)]
    borders = list(accumulate(lengths, initial=0))
    return slice(borders[i], borders[i + 1])
