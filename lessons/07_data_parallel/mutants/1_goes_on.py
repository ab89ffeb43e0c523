"""each part begins where the last call stopped: right only if the calls come in order."""

STOPPED = [0]


def shard_of(n: int, parts: int, i: int) -> slice:
    if not 0 <= i < parts:
        raise ValueError(f"there is no part {i}")
    start = STOPPED[0] if i else 0
    STOPPED[0] = start + n // parts + (i < n % parts)
    return slice(start, STOPPED[0])
