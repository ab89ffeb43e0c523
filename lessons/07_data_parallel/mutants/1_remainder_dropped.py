"""the remainder of the division belongs to no part."""


def shard_of(n: int, parts: int, i: int) -> slice:
    length = n // parts
    return slice(i * length, (i + 1) * length)
