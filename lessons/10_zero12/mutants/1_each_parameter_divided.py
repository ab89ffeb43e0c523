"""each parameter is divided separately, not the bucket: the borders differ from those of reduce-scatter."""

from minitrain.sharding import shard_of


def owned_parts(sizes, ranks, rank):
    return [shard_of(size, ranks, rank) for size in sizes]
