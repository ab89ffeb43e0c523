r"""The offset between the clocks of two hosts, from messages that go to and fro.

    rank r    asks at t0 ----.             .----> t1, has the answer
                              \           /
    rank 0                     `-> T ----'                        T was read between t0 and t1, so

    offset = T - (t0 + t1)/2          is what to add to r's clock, with an error of at most (t1 - t0)/2.

The fastest of several round trips gives the smallest bound. A network that is always slower in one direction than in
the other shifts the estimate, unnoticed, by half of the difference.

Cristian, "Probabilistic clock synchronization", Distributed Computing 3, 1989.
"""

import socket
from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..comm.communicator import Communicator

TAG = ("trace", "clock")
TRIPS = 20


def offset_to_rank_0(
    world: "Communicator", clock: Callable[[], int] = perf_counter_ns, host: str | None = None, trips: int = TRIPS
) -> int:
    """Return the ns to add to this rank's clock to get rank 0's. All ranks call it.

    0 on a rank of rank 0's host, where the clock is the same. host: the name of this one, by default the system's.
    trips: how many round trips to measure.
    """
    hosts = world.gather_objects(host or socket.gethostname())
    offset = 0
    for rank in (rank for rank in range(world.size) if hosts[rank] != hosts[0]):
        if world.rank == 0:
            _answer(world, rank, clock, trips)
        elif world.rank == rank:
            offset = _ask(world, clock, trips)
    return offset


def _ask(world: "Communicator", clock: Callable[[], int], trips: int) -> int:
    """Return the offset to rank 0 by the fastest of several round trips."""
    question, answer = np.zeros(1, np.int64), np.zeros(1, np.int64)
    found = []
    for _ in range(trips):
        t0 = clock()
        sent = world.send(question, 0, TAG)
        world.receive(answer, 0, TAG)
        t1 = clock()
        sent.wait()
        found.append((t1 - t0, int(answer[0]) - (t0 + t1) // 2))
    return min(found)[1]


def _answer(world: "Communicator", rank: int, clock: Callable[[], int], trips: int) -> None:
    """Answer each question of a rank with the time."""
    question = np.zeros(1, np.int64)
    for _ in range(trips):
        world.receive(question, rank, TAG)
        world.send(np.array([clock()]), rank, TAG).wait()
