"""only the parameters in which the shard begins and ends are considered: those between, owned whole, are forgotten."""

from minitrain.sharding import shard_of


def owned_parts(sizes, ranks, rank):
    mine, begin, parts = shard_of(sum(sizes), ranks, rank), 0, []
    for size in sizes:
        lo, hi = max(mine.start - begin, 0), min(mine.stop - begin, size)
        begins, ends = begin <= mine.start < begin + size, begin < mine.stop <= begin + size
        parts.append(slice(lo, hi) if lo < hi and (begins or ends) else slice(0, 0))
        begin += size
    return parts
