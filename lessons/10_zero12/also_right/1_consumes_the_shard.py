"""Yields parameter by parameter, using up first what others own before and then the own shard."""

from collections.abc import Iterator, Sequence

from minitrain.sharding import shard_of


def _parts(sizes: Sequence[int], before: int, own: int) -> Iterator[slice]:
    for size in sizes:
        skipped = min(size, before)
        taken = min(size - skipped, own)
        before, own = before - skipped, own - taken
        yield slice(skipped, skipped + taken) if taken else slice(0, 0)


def owned_parts(sizes: Sequence[int], ranks: int, rank: int) -> list[slice]:
    mine = shard_of(sum(sizes), ranks, rank)
    return list(_parts(sizes, mine.start, mine.stop - mine.start))
