"""the length is rounded up for every run, so that the last ones get too little."""


def shard_of(n: int, parts: int, i: int) -> slice:
    length = -(-n // parts)
    return slice(min(n, i * length), min(n, (i + 1) * length))
