"""cuts blocks of ceil(n / parts), as torch.chunk does, so the last slices are too short."""


def shard_of(n: int, parts: int, i: int) -> slice:
    if not 0 <= i < parts:
        raise ValueError(f"part {i} of {parts}")
    block = -(-n // parts)
    return slice(min(i * block, n), min((i + 1) * block, n))
