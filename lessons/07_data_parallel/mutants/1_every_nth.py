"""every n-th element, as cards are dealt; a part must be a run of neighbours."""


def shard_of(n: int, parts: int, i: int) -> slice:
    return slice(i, n, parts)
