"""Simulated rings have the times of the real ones under an open clock, rank by rank, in exact fractions."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction as Q
from typing import Any

import numpy as np
import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.hierarchical import hierarchical_all_reduce
from minitrain.comm.ring import ring_all_gather, ring_all_reduce, ring_reduce_scatter
from minitrain.errors import UserError
from minitrain.observe.virtual_time import Clock, Link, Machine, current, open_clock
from minitrain.planner.operations import Kind
from minitrain.planner.rings import Closed, Ranks, Rings, hierarchical, ring
from minitrain.planner.ticks import PICOSECOND

TAG = ("dp", "test")
ALPHA, BETA = Q(1, 30), Q(1, 700)
ONE_HOST = Machine(0, Link(ALPHA, BETA))
HOSTS = Machine(0, Link(ALPHA, BETA), Link(7 * ALPHA, 3 * BETA), per_host=2)
KINDS: dict[Kind, Callable[..., Any]] = {
    "reduce_scatter": ring_reduce_scatter,
    "all_gather": lambda comm, x, tag, add: ring_all_gather(comm, x, tag),
    "all_reduce": ring_all_reduce,
}


def real(ranks: Ranks, reduce: Callable[[Communicator, np.ndarray, Any], Any], length: int) -> list[Any]:
    """Return each rank's time after a real collective: its clock starts late, and its machine is slower."""

    def program(world: Communicator) -> Any:
        m, factor = ranks.machine, ranks.slow.get(world.rank, 1)
        inside, between = (Link(link.alpha * factor, link.beta * factor) for link in (m.inside, m.between))
        clocks = OneAtATime if ranks.one_at_a_time else Clock
        machine = replace(m, flop=ranks.add * factor, inside=inside, between=between)
        with open_clock(clocks(machine, ranks.late.get(world.rank, Q(0)))) as clock:
            reduce(world, np.ones(length, np.float32), timed_add)
        return clock.time

    return threads.run(ranks.count, program, timeout=20, wait=5)


class OneAtATime(Clock):
    """A rank's clock with links that carry one message at a time."""

    free: Any = 0  # when the link from the left neighbor is

    def receive(self, sent: tuple[Any, int], rank: int, nbytes: int) -> None:
        latency = self.machine.message(sent[1], rank, 0)
        self.free = max(sent[0], self.free) + self.machine.message(sent[1], rank, nbytes) - latency
        self.time = max(self.time, self.free + latency)


def timed_add(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """Add, and count one FLOP per element, which virtual time does not."""
    clock = current()
    assert clock is not None
    clock.compute(len(a))
    np.add(a, b, out=out)


def over_hosts(per_host: int) -> Callable[[Communicator, np.ndarray, Any], None]:
    """Return a hierarchical all-reduce over hosts of so many ranks."""

    def reduce(world: Communicator, x: np.ndarray, add: Any) -> None:
        host, place = divmod(world.rank, per_host)
        inside = world.subgroup(range(host * per_host, (host + 1) * per_host))
        hierarchical_all_reduce(inside, world.subgroup(range(place, world.size, per_host)), x, TAG, add)

    return reduce


def exactly(times: Any, expected: list[Any]) -> bool:
    return [times[rank] for rank in range(len(expected))] == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "ranks",
    [
        Ranks(ONE_HOST, 2),
        Ranks(ONE_HOST, 5, late={3: Q(2, 9)}),
        Ranks(HOSTS, 5, slow={4: Q(5, 3)}),
        Ranks(HOSTS, 8, late={0: Q(1, 7), 5: 3}, slow={2: 2}),
        Ranks(Closed(0, HOSTS.inside, HOSTS.between, 2, 6), 6, late={1: 1}, slow={1: 2}, add=Q(1, 11)),
        Ranks(HOSTS, 6, late={3: Q(1, 7)}, slow={2: 4}, one_at_a_time=True),
    ],
    ids=lambda ranks: f"{ranks.count} ranks",
)
def test_a_ring_takes_the_time_of_the_real_one(kind: Kind, ranks: Ranks) -> None:
    for length in (0, 3, 17, 80):
        found = ring(ranks, kind, length)
        assert exactly(found, real(ranks, lambda world, x, add: KINDS[kind](world, x, TAG, add), length))
        assert found.unit.exact


@pytest.mark.parametrize("per_host", [2, 3])
@pytest.mark.parametrize("late", [{}, {1: Q(1, 3), 4: 2}], ids=["in time", "late"])
def test_a_hierarchical_ring_takes_the_time_of_the_real_one(per_host: int, late: dict[int, Any]) -> None:
    ranks = Ranks(replace(HOSTS, per_host=per_host), 6, late, {2: Q(3, 2)}, add=Q(1, 11))
    for length in (0, 1, 5, 37):
        assert exactly(hierarchical(ranks, length), real(ranks, over_hosts(per_host), length))


def test_a_late_rank_delays_its_right_neighbors_one_by_one() -> None:
    """By hand: messages of one second, and rank 2 of 4 starts 10 s late."""
    second = Machine(0, Link(1))
    times = ring(Ranks(second, 4, late={2: 10}), "reduce_scatter", 4)
    assert exactly(times, [12, 13, 10, 11])  # after the first step [1, 1, 10, 11], after the second [12, 2, 10, 11]


def test_planted_rank_0_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring is closed: with rank 0 free of its left neighbor, times differ from the real ones."""

    class Open(Rings):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            for costs in self.messages:
                costs[0] = 0

    ranks = Ranks(HOSTS, 5, late={4: 2})
    expected = real(ranks, lambda world, x, add: ring_all_reduce(world, x, TAG), 17)
    assert exactly(ring(ranks, "all_reduce", 17), expected)
    monkeypatch.setattr("minitrain.planner.rings.Rings", Open)
    assert not exactly(ring(ranks, "all_reduce", 17), expected)


def test_planted_chunks_are_taken_as_equal() -> None:
    """17 elements on 5 ranks are not 5 chunks of 17/5, nor of the longest, 4."""
    ranks = Ranks(HOSTS, 5)
    expected = real(ranks, lambda world, x, add: ring_all_reduce(world, x, TAG), 17)
    assert exactly(ring(ranks, "all_reduce", 17), expected)
    assert not exactly(ring(ranks, "all_reduce", 15), expected) and not exactly(ring(ranks, "all_reduce", 20), expected)


def test_equal_chunks_take_the_formula() -> None:
    """If no message is slower than others, ranks pass on their chunks in step, as Machine.ring says."""
    assert ring(Ranks(ONE_HOST, 64), "all_reduce", 64 * 9).last == ONE_HOST.ring(range(64), 126, 36)
    machine = replace(HOSTS, per_host=4)
    inside, across = machine.ring(range(4), 3, 16 * 36), machine.ring(range(0, 64, 4), 30, 36)
    for one in (False, True):
        assert hierarchical(Ranks(machine, 64, one_at_a_time=one), 64 * 9).last == 2 * inside + across


def test_a_link_that_carries_one_message_at_a_time_keeps_its_bandwidth() -> None:
    """The bytes between hosts take their time; a message that waits for nothing still takes what Machine.ring says."""
    machine = Closed(0, HOSTS.inside, HOSTS.between, 4, 64)
    least, most = 126 * HOSTS.between.beta * 360, machine.ring(range(64), 126, 360)
    assert ring(Ranks(machine, 64), "all_reduce", 64 * 90).last < least
    assert least < ring(Ranks(machine, 64, one_at_a_time=True), "all_reduce", 64 * 90).last < most


def test_floats_are_rounded_to_picoseconds() -> None:
    machine = Machine(0.0, Link(3.4e-6, 1 / 288e9), Link(14e-6, 1 / 256e9), 4)
    found = ring(Ranks(machine, 16), "all_reduce", 1001)
    assert found.unit.tick == PICOSECOND and isinstance(found.last, float)
    inside, between = Link(Q(34, 10**7), Q(1, 288 * 10**9)), Link(Q(14, 10**6), Q(1, 256 * 10**9))
    exact = ring(Ranks(Machine(0, inside, between, 4), 16), "all_reduce", 1001)
    assert exact.unit.exact and abs(Q(exact.last) - Q(found.last)) <= 30 * PICOSECOND  # one per step, at most


def test_what_may_overflow_is_refused() -> None:
    with pytest.raises(UserError, match=r"more than 2\^62 ticks"):
        ring(Ranks(Machine(0, Link(Q(1, 2**61))), 4, late={0: 2}), "all_gather", 4)
    with pytest.raises(UserError, match=r"more than 2\^62 ticks"):
        ring(Ranks(Machine(0, Link(2**61, 1)), 4), "all_gather", 4, itemsize=1)


def test_hosts_that_are_not_full_are_refused() -> None:
    with pytest.raises(UserError, match="give a multiple of 2"):
        hierarchical(Ranks(HOSTS, 5), 10)
    with pytest.raises(UserError, match="ranks from 0 to 3"):
        Ranks(HOSTS, 4, late={4: 1})


def test_thousands_of_ranks() -> None:
    """All end at the formula's time; a rank that is a second late costs a second, and at most one phase more."""
    machine = Machine(0, Link(Q(34, 10**7), Q(1, 288 * 10**9)))
    alone = ring(Ranks(machine, 1024), "all_reduce", 1024 * 7)
    assert alone.last == machine.ring(range(1024), 2046, 28)
    late = ring(Ranks(machine, 1024, late={500: 1}), "all_reduce", 1024 * 7)
    assert late.ticks.min() >= late.unit.of(1) and 1 < late.last <= 1 + alone.last
