"""The ring's collectives match their definitions on MPI and on threads, for any length, dtype and number of ranks."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.ring import RingCommunicator, ring_all_gather, ring_all_reduce, ring_reduce_scatter
from minitrain.observe.ledger import Ledger
from minitrain.sharding import shard_of

TAG = ("dp", "test")
LENGTHS = [0, 1, 2, 5, 12, 1001]


def values(rank: int, length: int, dtype: Any) -> np.ndarray:
    return (np.random.default_rng(rank).integers(-8, 9, length) / 4).astype(dtype)


def sums(world: Communicator, length: int, dtype: Any) -> None:
    """Check all-reduce, and reduce-scatter with all-gather; the numbers are exact, so results must be equal."""
    everybody = [values(r, length, dtype) for r in range(world.size)]
    for op, true in (("sum", np.sum(everybody, axis=0)), ("max", np.max(everybody, axis=0))):
        x = everybody[world.rank].copy()
        world.all_reduce(x, TAG, op)
        np.testing.assert_array_equal(x, true)
    x = everybody[world.rank].copy()
    x[world.rank : world.rank + 1] = np.nan
    world.all_reduce(x, TAG, "max")  # the maximum of NaN and a number is NaN
    assert np.isnan(x).tolist() == [i < world.size for i in range(length)]
    x = everybody[world.rank].copy()
    mine = world.reduce_scatter(x, TAG)
    cut = shard_of(length, world.size, world.rank)
    np.testing.assert_array_equal(mine, np.sum(everybody, axis=0)[cut])
    assert np.shares_memory(mine, x) or not mine.size
    world.all_gather(x, TAG)
    np.testing.assert_array_equal(x, np.sum(everybody, axis=0))


def functions(world: Communicator, length: int, dtype: Any) -> None:
    """Call the three functions directly, as a reader of the file would."""
    everybody = [values(r, length, dtype) for r in range(world.size)]
    total, own = np.sum(everybody, axis=0), shard_of(length, world.size, world.rank)
    x = everybody[world.rank].copy()
    ring_all_reduce(world, x, TAG)
    np.testing.assert_array_equal(x, total)
    x = everybody[world.rank].copy()
    np.testing.assert_array_equal(ring_reduce_scatter(world, x, TAG), total[own])
    x[: own.start], x[own.stop :] = np.nan, np.nan
    ring_all_gather(world, x, TAG)
    np.testing.assert_array_equal(x, total)


def own_shards(world: Communicator, length: int, dtype: Any) -> None:
    """Check shards of any lengths, some empty, the first not the longest. Total bytes are as for even shards."""
    n = world.size
    borders = [0, *sorted((7 * r * length // 11) % (length + 1) for r in range(1, n)), length]
    shards = [slice(lo, hi) for lo, hi in itertools.pairwise(borders)]
    everybody = [values(r, length, dtype) for r in range(n)]
    total, own = np.sum(everybody, axis=0), shards[world.rank]
    for x in (everybody[world.rank].copy(), everybody[world.rank].copy().reshape(1, -1)):
        book = Ledger()
        with book.open():
            world.all_reduce(x, TAG, shards=shards)
        np.testing.assert_array_equal(x.reshape(-1), total)
        if n > 1:
            assert sum(world.gather_objects(book.bytes[TAG])) == 2 * (n - 1) * length * max(4, x.dtype.itemsize)
    x = everybody[world.rank].copy()
    np.testing.assert_array_equal(world.reduce_scatter(x, TAG, shards), total[own])
    x[: own.start], x[own.stop :] = np.nan, np.nan
    world.all_gather(x, TAG, shards)
    np.testing.assert_array_equal(x, total)


def broadcasts(world: Communicator, length: int, dtype: Any) -> None:
    for root in range(world.size):
        x = values(world.rank, length, dtype)
        world.broadcast(x, root, TAG)
        np.testing.assert_array_equal(x, values(root, length, dtype))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("check", [sums, functions, own_shards, broadcasts])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.ranks(2, 3, 4)
def test_mpi(world: Communicator, check: Callable[..., None], length: int, dtype: Any) -> None:
    check(RingCommunicator(world), length, dtype)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("check", [sums, functions, own_shards, broadcasts])
def test_threads(size: int, check: Callable[..., None]) -> None:
    def program(world: Communicator) -> None:
        for length in LENGTHS:
            check(RingCommunicator(world), length, np.float32)

    threads.run(size, program)


@pytest.mark.ranks(3, 4)
def test_the_same_bits_everywhere_as_on_threads(world: Communicator) -> None:
    """The order of additions is the ring's, on any transport."""

    def reduced(ranks: Communicator) -> bytes:
        x = np.random.default_rng(ranks.rank).standard_normal(101)
        RingCommunicator(ranks).all_reduce(x, TAG)
        return x.tobytes()

    bits = {*world.gather_objects(reduced(world)), *threads.run(world.size, reduced)}
    assert len(bits) == 1


@pytest.mark.ranks(3)
def test_half_precision_is_summed_in_float32(world: Communicator) -> None:
    """In float16, 2048 + 1 is 2048, but 2048 + 1 + 1 rounded once is 2050."""
    x = np.array([2048.0 if world.rank == 0 else 1.0] * 4, np.float16)
    RingCommunicator(world).all_reduce(x, TAG)
    assert (x == 2050).all()


@pytest.mark.ranks(4)
def test_groups_are_rings_as_well(world: Communicator) -> None:
    ring = RingCommunicator(world)
    members = [0, 2] if world.rank % 2 == 0 else [1, 3]
    for group in (ring.subgroup(members), ring.subgroup(members).duplicate()):
        assert isinstance(group, RingCommunicator)
        x = np.full(5, float(world.rank))
        group.all_reduce(x, TAG)
        assert (x == sum(members)).all()


def test_nobody_leaves_the_barrier_of_a_ring_early() -> None:
    arrived: list[int] = []

    def program(world: Communicator) -> None:
        ring = RingCommunicator(world)
        if world.rank == 1:
            time.sleep(0.05)
        arrived.append(world.rank)
        ring.barrier()
        assert len(arrived) == 2

    threads.run(2, program)


@pytest.mark.ranks(2, 3)
def test_the_ring_does_not_meet_its_users_messages(world: Communicator) -> None:
    """A user's message whose number is that of a ring step still reaches the user."""
    ring = RingCommunicator(world)
    x, message = np.ones(6), np.full(2, 100.0)
    sent = ring.send(message, (world.rank + 1) % world.size, TAG, 0)
    ring.all_reduce(x, TAG)
    arrived = np.zeros(2)
    ring.receive(arrived, (world.rank - 1) % world.size, TAG, 0)
    sent.wait()
    assert (arrived == 100).all() and (x == world.size).all()
