"""Takes the first part, rounded up, and calls itself for the rest."""


def shard_of(n: int, parts: int, i: int) -> slice:
    if not 0 <= i < parts:
        raise ValueError("no such part")
    first = -(-n // parts)
    if i == 0:
        return slice(0, first)
    rest = shard_of(n - first, parts - 1, i - 1)
    return slice(first + rest.start, first + rest.stop)
