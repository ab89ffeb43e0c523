"""an empty part is some 3:3 or 3:1, not 0:0."""

from minitrain.sharding import shard_of


def owned_parts(sizes, ranks, rank):
    mine, begin, parts = shard_of(sum(sizes), ranks, rank), 0, []
    for size in sizes:
        parts.append(slice(max(mine.start - begin, 0), max(min(mine.stop - begin, size), 0)))
        begin += size
    return parts
