"""the length of every part is rounded up, so the last parts get too little."""


def shard_of(n: int, parts: int, i: int) -> slice:
    length = -(-n // parts)
    return slice(min(n, i * length), min(n, (i + 1) * length))
