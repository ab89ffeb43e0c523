"""no error for a part that does not exist: part `parts` lies past the end, part -1 before the beginning."""


def shard_of(n: int, parts: int, i: int) -> slice:
    base, longer = divmod(n, parts)
    start = i * base + min(i, longer)
    return slice(start, start + base + (i < longer))
