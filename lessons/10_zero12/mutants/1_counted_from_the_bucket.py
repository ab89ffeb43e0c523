"""the slices count from the start of the bucket, not of the parameter."""

from minitrain.sharding import shard_of


def owned_parts(sizes, ranks, rank):
    mine, begin, parts = shard_of(sum(sizes), ranks, rank), 0, []
    for size in sizes:
        lo, hi = max(mine.start, begin), min(mine.stop, begin + size)
        parts.append(slice(lo, hi) if lo < hi else slice(0, 0))
        begin += size
    return parts
