"""Divides in floating point, which is exact up to 2^53 elements."""


def shard_of(n: int, parts: int, i: int) -> slice:
    if not 0 <= i < parts:
        raise ValueError(f"part {i} of {parts}")
    base, longer = int(n / parts), n % parts
    start = i * base + min(i, longer)
    return slice(start, start + base + (i < longer))
