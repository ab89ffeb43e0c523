"""Counts by dealing the elements like cards, one after the other."""


def shard_of(n: int, parts: int, i: int) -> slice:
    if i < 0 or i >= parts:
        raise ValueError(f"{i} is none of {parts}")
    lengths = [0] * parts
    for k in range(n):
        lengths[k % parts] += 1
    return slice(sum(lengths[:i]), sum(lengths[: i + 1]))
