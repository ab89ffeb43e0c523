"""the last part takes the whole remainder and becomes too long."""


def shard_of(n: int, parts: int, i: int) -> slice:
    length = n // parts
    return slice(i * length, n if i == parts - 1 else (i + 1) * length)
