"""The offset between clocks, on a clock that all ranks share but read with different errors."""

import threading
from itertools import count

import pytest

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.comm.ring import RingCommunicator
from minitrain.observe.clock_offset import offset_to_rank_0
from minitrain.observe.ledger import Ledger

WRONG = [5_000, -7 * 10**12, 3 * 10**9, 0]  # what each rank's clock is ahead by


class Ticks:
    """A clock that shows how often it has been read, by all ranks together."""

    def __init__(self) -> None:
        self.ticks, self.lock = count(), threading.Lock()

    def read(self) -> int:
        with self.lock:
            return next(self.ticks)


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("ring", [False, True])
def test_the_offset_is_found(ranks: int, ring: bool) -> None:
    """In an undisturbed trip, the clock is read by the asker, by rank 0, and by the asker: the middle is exact."""
    ticks = Ticks()

    def program(world: Communicator) -> int:
        world = RingCommunicator(world) if ring else world
        return offset_to_rank_0(world, lambda: ticks.read() + WRONG[world.rank], f"host {world.rank}", trips=5)

    found = threads.run(ranks, program, timeout=20, wait=5)
    assert found == [WRONG[0] - wrong if rank else 0 for rank, wrong in enumerate(WRONG[:ranks])]


def test_the_fastest_round_trip_counts() -> None:
    """An answer that was delayed on one way only would shift the estimate; a faster trip corrects it."""
    clock, world_clock = iter([0, 100, 200, 202, 300, 500]), iter([90, 201, 310])

    def program(world: Communicator) -> int:
        return offset_to_rank_0(
            world, lambda: next(clock if world.rank else world_clock), f"host {world.rank}", trips=3
        )

    assert threads.run(2, program, timeout=20, wait=5) == [0, 0]


def test_ranks_of_one_host_have_one_clock() -> None:
    def program(world: Communicator) -> tuple[int, int]:
        with Ledger().open() as ledger:
            return offset_to_rank_0(world, lambda: pytest.fail("it was read")), len(ledger.bytes)

    assert threads.run(3, program, timeout=20, wait=5) == [(0, 0)] * 3
