"""empty slices are 0:0, not n:n: a slice begins where the one before it stops."""


def shard_of(n: int, parts: int, i: int) -> slice:
    if not 0 <= i < parts:
        raise ValueError(f"there is no part {i}")
    base, longer = divmod(n, parts)
    start, length = i * base + min(i, longer), base + (i < longer)
    return slice(start, start + length) if length else slice(0, 0)
