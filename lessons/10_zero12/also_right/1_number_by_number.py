"""Lists the owners number by number, and finds the first and the last that this rank owns."""

from minitrain.sharding import even_shards


def owned_parts(sizes, ranks, rank):
    owners = [r for r, cut in enumerate(even_shards(sum(sizes), ranks)) for _ in range(cut.stop - cut.start)]
    parts = []
    for size in sizes:
        here, owners = owners[:size], owners[size:]
        mine = [k for k, owner in enumerate(here) if owner == rank]
        parts.append(slice(mine[0], mine[-1] + 1) if mine else slice(0, 0))
    return parts
