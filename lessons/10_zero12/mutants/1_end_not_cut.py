"""the end is not limited to the shard's end: a part reaches to the end of its parameter."""

from minitrain.sharding import shard_of


def owned_parts(sizes, ranks, rank):
    mine, begin, parts = shard_of(sum(sizes), ranks, rank), 0, []
    for size in sizes:
        lo = max(mine.start - begin, 0)
        parts.append(slice(lo, size) if lo < size and begin < mine.stop else slice(0, 0))
        begin += size
    return parts
