"""compares with <= where < is right: a parameter that ends where the shard begins gets an empty slice at its end."""

from collections.abc import Sequence

from minitrain.sharding import shard_of


def owned_parts(sizes: Sequence[int], ranks: int, rank: int) -> list[slice]:
    mine, parts, first = shard_of(sum(sizes), ranks, rank), [], 0
    for size in sizes:
        lo, hi = max(mine.start, first), min(mine.stop, first + size)
        parts.append(slice(lo - first, hi - first) if lo <= hi else slice(0, 0))
        first += size
    return parts
