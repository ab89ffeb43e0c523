"""the last slice has no end, so its length cannot be computed from stop - start."""


def shard_of(n: int, parts: int, i: int) -> slice:
    if not 0 <= i < parts:
        raise ValueError(f"there is no part {i}")
    base, longer = divmod(n, parts)
    start = i * base + min(i, longer)
    return slice(start, None if i == parts - 1 else start + base + (i < longer))
