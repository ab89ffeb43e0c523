"""rounds the borders i n / parts up, so the longer slices are spread out instead of coming first."""


def shard_of(n: int, parts: int, i: int) -> slice:
    if not 0 <= i < parts:
        raise ValueError(f"part {i} of {parts}")
    return slice(-(-i * n // parts), -(-(i + 1) * n // parts))
