"""a parameter is identified by its size, so equally large ones are confused."""

from minitrain.sharding import shard_of


def owned_parts(sizes, ranks, rank):
    mine, parts = shard_of(sum(sizes), ranks, rank), []
    for size in sizes:
        begin = sum(sizes[: sizes.index(size)])
        lo, hi = max(mine.start - begin, 0), min(mine.stop - begin, size)
        parts.append(slice(lo, hi) if lo < hi else slice(0, 0))
    return parts
