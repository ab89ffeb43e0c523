"""The virtual time of collectives, messages and a communication thread, on threads and on processes."""

from fractions import Fraction as Q

import numpy as np
import pytest

from minitrain.backend import matmul
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.ring import RingCommunicator
from minitrain.observe.virtual_time import Clock, Link, Machine, open_clock
from minitrain.parallel.overlap import CommunicationThread

TAG = ("dp", "test")
ALPHA, BETA, FLOP = Q(1, 10), Q(1, 1000), Q(1, 7)
ONE_HOST = Machine(FLOP, Link(ALPHA, BETA))
TWO_HOSTS = Machine(FLOP, Link(ALPHA, BETA), Link(10 * ALPHA, BETA), per_host=2)


def collectives(world: Communicator, machine: Machine) -> list[Q]:
    """Return this rank's time after each of several operations, which ranks begin at different times."""
    times = []
    with open_clock(Clock(machine)) as clock:
        matmul(np.ones((1, 1)), np.ones((1, 1 + world.rank)))  # 2 FLOPs a column
        times.append(clock.time)
        world.all_reduce(np.ones(7), TAG)
        times.append(clock.time)
        world.reduce_scatter(np.ones(7), TAG)
        times.append(clock.time)
        world.all_gather(np.ones(7), TAG)
        times.append(clock.time)
        world.all_reduce(np.ones(3, np.float16), TAG)  # summed, and sent, in float32
        times.append(clock.time)
    return times  # type: ignore[return-value]


def expected(rank: int, ranks: int, machine: Machine) -> list[Q]:
    """Return the times of `collectives` by hand."""
    alpha = 10 * ALPHA if machine.per_host and ranks > machine.per_host else ALPHA
    hop = lambda elements, size: alpha + BETA * size * -(-elements // ranks)  # the largest shard
    start, n = 2 * ranks * FLOP, ranks - 1  # the last rank has most FLOPs
    reduced = start + 2 * n * hop(7, 8)
    scattered = reduced + n * hop(7, 8)
    gathered = scattered + n * hop(7, 8)
    return [2 * (1 + rank) * FLOP, reduced, scattered, gathered, gathered + 2 * n * hop(3, 4)]


@pytest.mark.parametrize("machine", [ONE_HOST, TWO_HOSTS], ids=["one host", "two hosts"])
@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("ring", [False, True])
def test_collectives_take_the_time_of_a_ring(ranks: int, ring: bool, machine: Machine) -> None:
    make = RingCommunicator if ring else lambda world: world
    found = threads.run(ranks, lambda world: collectives(make(world), machine), timeout=20, wait=5)
    assert found == [expected(rank, ranks, machine) for rank in range(ranks)]


@pytest.mark.ranks(2, 3)
def test_processes_have_the_same_time(world: Communicator) -> None:
    for comm in (world, RingCommunicator(world)):
        assert collectives(comm, ONE_HOST) == expected(world.rank, world.size, ONE_HOST)


@pytest.mark.ranks(2)
def test_a_message_arrives_after_it_was_sent(world: Communicator) -> None:
    x = np.ones(5)
    with open_clock(Clock(ONE_HOST)) as clock:
        if world.rank == 0:
            clock.compute(21)
            world.send(x, 1, TAG, 3).wait()
            assert clock.time == 3  # sending is free
        else:
            world.receive(x, 0, TAG, 3)
            assert clock.time == 3 + ALPHA + 40 * BETA
            world.send(x, 0, TAG).wait()
        if world.rank == 0:
            clock.compute(70)
            world.receive(x, 1, TAG)
            assert clock.time == 13  # it had arrived before


def test_a_communication_thread_has_its_own_time() -> None:
    def program(world: Communicator) -> tuple[object, object]:
        thread, line = CommunicationThread(), world.duplicate()
        with open_clock(Clock(ONE_HOST)) as clock:
            thread.submit(lambda: line.all_reduce(np.ones(1), TAG))
            clock.compute(7)
            thread.submit(lambda: line.all_reduce(np.ones(1), TAG))
            thread.wait(1)
            first = clock.time
            thread.wait()
            second = clock.time
        thread.close()
        return first, second

    takes = 2 * (ALPHA + 8 * BETA)
    assert threads.run(2, program, timeout=20, wait=5) == [(max(1, takes), 1 + takes)] * 2


def test_without_a_clock_nothing_is_exchanged() -> None:
    with open_clock(Clock(Machine())) as clock:
        pass
    threads.run(2, lambda world: world.all_reduce(np.ones(3), TAG), timeout=20, wait=5)
    assert clock.time == 0
