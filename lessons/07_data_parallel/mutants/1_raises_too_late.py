"""part number `parts` is accepted, but parts are counted from 0."""


def shard_of(n: int, parts: int, i: int) -> slice:
    if not 0 <= i <= parts:
        raise ValueError(f"there is no part {i}")
    base, longer = divmod(n, parts)
    start = i * base + min(i, longer)
    return slice(start, start + base + (i < longer))
