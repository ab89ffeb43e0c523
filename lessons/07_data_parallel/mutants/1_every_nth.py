"""every n-th element, as cards are dealt: no run of neighbours."""


def shard_of(n: int, parts: int, i: int) -> slice:
    return slice(i, n, parts)
