"""Takes as much as is fair of what is left, part by part."""


def shard_of(n: int, parts: int, i: int) -> slice:
    if i < 0 or i >= parts:
        raise ValueError(f"part {i} of {parts}")
    start, left = 0, n
    for others in range(parts, 0, -1):
        take = (left + others - 1) // others
        if others == parts - i:
            return slice(start, start + take)
        start, left = start + take, left - take
    raise AssertionError("not reached")
