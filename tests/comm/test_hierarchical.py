"""The hierarchical all-reduce is a sum, and sends the bytes that its docstring says: inside hosts, and between them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.hierarchical import hierarchical_all_reduce
from minitrain.comm.ring import ring_all_reduce
from minitrain.sharding import shard_of

TAG = ("dp", "test")
LENGTHS = [0, 1, 5, 12, 1001]
HOSTS, PLACES = 2, 3
Reduce = Callable[..., None]


def values(rank: int, length: int) -> np.ndarray:
    return np.random.default_rng(rank).integers(-8, 9, length) / 4  # their sums are exact in any order


def groups(world: Communicator, per_host: int) -> tuple[Communicator, Communicator]:
    """Return the ranks of this rank's host, and those of its place in each host."""
    host, place = divmod(world.rank, per_host)
    inside = world.subgroup(range(host * per_host, (host + 1) * per_host))
    return inside, world.subgroup(range(place, world.size, per_host))


def counting(comm: Any, sent: list[int]) -> Communicator:
    """Let the communicator also append the bytes of each message that it sends."""
    send = comm.send

    def counted(x: Any, *where: Any) -> Any:
        sent.append(x.nbytes)
        return send(x, *where)

    comm.send = counted
    return comm


def sums(
    world: Communicator, per_host: int, length: int, reduce: Callable[..., None] = hierarchical_all_reduce
) -> None:
    """Check the sum on every rank."""
    x = values(world.rank, length)
    reduce(*groups(world, per_host), x, TAG)
    np.testing.assert_array_equal(x, np.sum([values(r, length) for r in range(world.size)], axis=0))


@pytest.mark.parametrize(("hosts", "per_host"), [(1, 1), (1, 3), (3, 1), (2, 3), (3, 2)])
def test_every_rank_has_the_sum(hosts: int, per_host: int) -> None:
    def program(world: Communicator) -> None:
        for length in LENGTHS:
            sums(world, per_host, length)

    threads.run(hosts * per_host, program, timeout=20, wait=5)


def test_a_mean_over_hosts_in_place_of_the_sum_is_seen() -> None:
    """A planted mistake: the shard is divided by the hosts, which the loss has already divided by."""

    def wrong(inside: Communicator, across: Communicator, x: np.ndarray, tag: Any) -> None:
        hierarchical_all_reduce(inside, across, x, tag)
        x /= across.size

    with pytest.raises(RuntimeError, match="AssertionError"):
        threads.run(HOSTS * PLACES, lambda world: sums(world, PLACES, 12, wrong), timeout=20, wait=5)


@pytest.mark.parametrize("length", LENGTHS)
def test_bytes_inside_and_between_hosts(length: int) -> None:
    """Each rank sends what it must, chunk by chunk: the shards are cut as even_shards cuts them, twice."""

    def program(world: Communicator) -> tuple[int, int]:
        sent: tuple[list[int], list[int]] = ([], [])
        inside, across = map(counting, groups(world, PLACES), sent)
        hierarchical_all_reduce(inside, across, values(world.rank, length), TAG)
        return sum(sent[0]), sum(sent[1])

    size = lambda n, parts, i: (cut := shard_of(n, parts, i % parts)).stop - cut.start
    for rank, (inside, between) in enumerate(threads.run(HOSTS * PLACES, program, timeout=20, wait=5)):
        host, place = divmod(rank, PLACES)
        own = size(length, PLACES, place)
        assert inside == 8 * (2 * length - own - size(length, PLACES, place + 1))
        assert between == 8 * (2 * own - size(own, HOSTS, host) - size(own, HOSTS, host + 1))


def test_fewer_bytes_and_hops_between_hosts_than_a_flat_ring() -> None:
    """The table of the docstring, for 6 ranks on 2 hosts and 36 numbers, which 6 divides."""

    def program(world: Communicator) -> tuple[list[int], list[int], list[int]]:
        inside, across, flat = [[], [], []]  # type: tuple[list[int], list[int], list[int]]
        mine = groups(world, PLACES)
        hierarchical_all_reduce(counting(mine[0], inside), counting(mine[1], across), np.ones(36), TAG)
        ring_all_reduce(counting(world, flat), np.ones(36), TAG)
        return inside, across, flat

    found = threads.run(HOSTS * PLACES, program, timeout=20, wait=5)
    nbytes, n = 36 * 8, HOSTS * PLACES
    for inside, across, flat in found:
        assert (len(inside), len(across), len(flat)) == (2 * (PLACES - 1), 2 * (HOSTS - 1), 2 * (n - 1))
        assert sum(inside) == 2 * (PLACES - 1) * nbytes // PLACES
        assert sum(across) == 2 * (HOSTS - 1) * nbytes // (HOSTS * PLACES)
        assert sum(flat) == 2 * (n - 1) * nbytes // n
    assert sum(sum(found[rank][1]) for rank in range(PLACES)) == 2 * (HOSTS - 1) * nbytes // HOSTS  # leave host 0
