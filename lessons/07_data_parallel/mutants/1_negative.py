"""negative numbers count from the end, as in a list; a part that does not exist is an error."""


def shard_of(n: int, parts: int, i: int) -> slice:
    base, longer = divmod(n, parts)
    lengths = [base + (k < longer) for k in range(parts)]
    if i >= parts or i < -parts:
        raise ValueError(f"there is no part {i}")
    i %= parts
    return slice(sum(lengths[:i]), sum(lengths[: i + 1]))
