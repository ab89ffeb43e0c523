"""Ranks as threads of one process, for debuggers, notebooks and quick tests.

    results = threads.run(3, lambda world: train(world))

In a collective every rank publishes its array, passes a barrier, computes its own result from all arrays, passes a
second barrier, and writes. Sums run in rank order, so all ranks get the same bits. Messages are copied when sent.
"""

import copy
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import reduce
from queue import Empty, SimpleQueue
from typing import Any

from ..backend import Array, xp
from ..environment import waiting
from ..errors import UserError, check_memory, check_number, check_whole
from ..sharding import Shards
from .communicator import Communicator, Tag
from .rank_positions import ENDED, Moves, Standing, report, standing, stuck

STACK = 8 * 2**20  # bytes; a thread's maximum stack on most systems


class RankFailed(RuntimeError):
    """Raised in a waiting rank when another rank has failed."""


class _Group:
    """The state shared by the threads of one group."""

    def __init__(self, size: int, failed: threading.Event) -> None:
        self.size = size
        self.failed = failed  # shared by all groups of a run
        self.barrier = threading.Barrier(size)
        self.shown: list[Any] = [None] * size
        self.mail: dict[tuple, SimpleQueue] = defaultdict(SimpleQueue)
        self.lock = threading.Lock()
        self.children: dict[tuple, _Group] = {}

    def child(self, key: tuple, size: int) -> "_Group":
        """Return the group under this key; the first member to ask creates it."""
        with self.lock:
            if key not in self.children:
                self.children[key] = _Group(size, self.failed)
            return self.children[key]

    def mailbox(self, key: tuple) -> SimpleQueue:
        """Return the queue of messages under this key."""
        with self.lock:
            return self.mail[key]


class ThreadCommunicator(Communicator):
    """A group of threads."""

    def __init__(
        self, group: _Group, rank: int, moves: Moves | None = None, members: Sequence[int] | None = None
    ) -> None:
        """moves: the parent communicator's; None for the world. members: see Communicator."""
        super().__init__(rank, group.size, moves or Moves(rank), members)
        self.group = group
        self.made: dict[tuple, int] = defaultdict(int)

    def _barrier(self) -> None:
        self._meet()

    def _meet(self) -> None:
        if self.group.failed.is_set():
            self.group.barrier.abort()
        try:
            self.group.barrier.wait()
        except threading.BrokenBarrierError:
            raise RankFailed("another rank failed") from None

    def _exchange(self, value: Any, compute: Callable[[list[Any]], Any]) -> Any:
        """Return compute(values of all ranks), which runs before any rank continues."""
        self.group.shown[self.rank] = value
        self._meet()
        result = compute(self.group.shown)
        self._meet()
        self.group.shown[self.rank] = None  # it may be the last reference to an array
        return result

    def _all_reduce(self, x: Array, op: str, tag: Tag, shards: Shards | None) -> None:
        join = xp.add if op == "sum" else xp.maximum
        x[...] = self._exchange(x, lambda all_x: reduce(join, all_x))

    def _reduce_scatter(self, x: Array, tag: Tag, shards: Shards | None) -> Array:
        place = self._shards(x, shards)[self.rank]
        return self._exchange(x, lambda all_x: reduce(xp.add, [other[place] for other in all_x]))

    def _all_gather(self, x: Array, tag: Tag, shards: Shards | None) -> None:
        runs = self._shards(x, shards)
        x[...] = self._exchange(
            x, lambda all_x: xp.concatenate([other[run] for other, run in zip(all_x, runs, strict=True)])
        )

    def _broadcast(self, x: Array, root: int, tag: Tag) -> None:
        x[...] = self._exchange(x, lambda all_x: all_x[root].copy())

    def _send(self, x: Array, to: int, number: int) -> Any:
        self.group.mailbox((self.rank, to, number)).put(x.copy())
        return _Sent()

    def _receive(self, x: Array, source: int, number: int) -> None:
        message = self._take((source, self.rank, number))
        self._check_message(x, message.nbytes)
        x.reshape(-1)[...] = message.reshape(-1)

    def _take(self, key: tuple) -> Any:
        """Return the next message of a mailbox, blocking."""
        box = self.group.mailbox(key)
        while not self.group.failed.is_set():
            try:
                return box.get(timeout=0.05)
            except Empty:
                continue
        raise RankFailed("another rank failed")

    def _tell(self, value: Any, to: int, number: int) -> None:
        self.group.mailbox(("told", self.rank, to, number)).put(value)

    def _hear(self, source: int, number: int) -> Any:
        return self._take(("told", source, self.rank, number))

    def _gather_objects(self, value: Any) -> list[Any]:
        return self._exchange(value, copy.deepcopy)  # copies, as if sent

    def _subgroup(self, ranks: Sequence[int]) -> "ThreadCommunicator":
        return self._child(("subgroup", *ranks), list(ranks))

    def _duplicate(self) -> "ThreadCommunicator":
        return self._child(("duplicate",), list(range(self.size)))

    def _free(self) -> None:
        """Do nothing: threads can have any number of groups."""

    def _child(self, name: tuple, members: list[int]) -> "ThreadCommunicator":
        """Return the new group. Members find each other by its name and the number of times they have requested it."""
        self.made[name] += 1
        child = self.group.child((*name, self.made[name]), len(members))
        world = [self.members[rank] for rank in members]
        return ThreadCommunicator(child, members.index(self.rank), self.moves, world)


class _Sent:
    """Handle of a copied message, which is complete at once."""

    def done(self) -> bool:
        """Return True."""
        return True

    def wait(self) -> None:
        """Return at once."""
        return


def world_of_one() -> ThreadCommunicator:
    """Return the communicator of a single process."""
    return ThreadCommunicator(_Group(1, threading.Event()), 0)


def run(
    size: int, program: Callable[[Communicator], Any], timeout: float = 120.0, wait: float | None = None
) -> list[Any]:
    """Call program(world) in `size` threads and return the results in rank order.

    If a rank raises, stop the waiting ranks and raise RuntimeError with the rank and its exception. Raise TimeoutError
    if the ranks do not finish within `timeout` seconds, or if ranks wait and none makes progress for `wait` seconds
    (default: as in `minitrain.launch()`). Raise UserError for an invalid argument or too many threads for the memory.
    """
    check_whole("size", size, 1)
    check_memory(f"size is {size}; a stack for each thread", size * STACK, "give fewer ranks")
    check_number("timeout", timeout, "above 0")
    timeout, limit = min(timeout, threading.TIMEOUT_MAX), waiting(wait)
    group = _Group(size, threading.Event())
    worlds = [ThreadCommunicator(group, rank) for rank in range(size)]
    results: list[Any] = [None] * size
    errors: list[tuple[int, BaseException]] = []

    def body(rank: int) -> None:
        try:
            results[rank] = program(worlds[rank])
        except BaseException as error:
            errors.append((rank, error))
            _stop(group)

    threads = [threading.Thread(target=body, args=(rank,), daemon=True, name=f"rank {rank}") for rank in range(size)]
    _start(threads, group)
    message = _join(threads, [world.moves for world in worlds], time.monotonic() + timeout, limit)
    late = [thread.name for thread in threads if thread.is_alive()]
    failed = list(errors)  # copied before late ranks are woken, which makes them fail as well
    _stop(group) if late else None
    causes = [pair for pair in failed if not isinstance(pair[1], RankFailed)] or failed
    if causes:
        rank, error = causes[0]
        raise RuntimeError(f"rank {rank} of {size} raised {type(error).__name__}: {error}") from error
    if late:
        raise TimeoutError(message or f"after {timeout} s these ranks had not ended: {', '.join(late)}")
    return results


def _join(threads: list[threading.Thread], moves: list[Moves], deadline: float, limit: float) -> str:
    """Wait until all threads end, the deadline passes or the ranks are stuck. Return a report if stuck, else ""."""
    counts, since = [-1] * len(moves), [0.0] * len(moves)
    pause = min(limit / 20, 1.0)
    for thread in threads:
        while thread.is_alive():
            now = time.monotonic()
            if now >= deadline:
                return ""
            for rank, move in enumerate(moves):
                if move.count != counts[rank]:
                    counts[rank], since[rank] = move.count, now
            if max(since) <= now - limit and stuck(ranks := _standings(threads, moves, now, since), limit):
                return report(ranks, limit)
            thread.join(min(pause, deadline - now))
    return ""


def _standings(threads: list[threading.Thread], moves: list[Moves], now: float, since: list[float]) -> list[Standing]:
    """Return the state of each rank."""
    return [
        standing(thread.ident or 0, move, now - before) if thread.is_alive() else Standing(False, now - before, ENDED)
        for thread, move, before in zip(threads, moves, since, strict=True)
    ]


def _start(threads: list[threading.Thread], group: _Group) -> None:
    """Start all threads. If the system refuses one, stop the others and raise UserError."""
    for i, thread in enumerate(threads):
        try:
            thread.start()
        except RuntimeError as error:
            _stop(group)
            raise UserError(
                f"size is {len(threads)}, but the system could start only {i} threads: use fewer ranks"
            ) from error


def _stop(group: _Group) -> None:
    """End every wait in this group and its subgroups."""
    group.failed.set()
    group.barrier.abort()
    with group.lock:
        children = list(group.children.values())
    for child in children:
        _stop(child)
