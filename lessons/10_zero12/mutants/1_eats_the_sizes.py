"""the list of sizes is emptied, but it belongs to the caller."""

from minitrain.sharding import shard_of


def owned_parts(sizes, ranks, rank):
    mine, begin, parts = shard_of(sum(sizes), ranks, rank), 0, []
    while sizes:
        size = sizes.pop(0)
        lo, hi = max(mine.start - begin, 0), min(mine.stop - begin, size)
        parts.append(slice(lo, hi) if lo < hi else slice(0, 0))
        begin += size
    return parts
