"""Ring collectives of thousands of ranks, message by message, in virtual time: flat, and hierarchical.

In each step rank r sends a chunk to its right neighbor and waits for one from its left neighbor. With t[r] its time,
and `message` that of the chunk from r - 1 to r:

    t[r] = max(t[r], t[r-1] + message)

    N - 1 steps         a reduce-scatter, then the same number for an all-gather
    late rank           in step s it delays the rank s + 1 places to its right: after N - 1 steps, all
    slow link           all chunks but one pass through it in each phase

One step of all ranks is a few operations on int64 arrays (N), in ticks (ticks.py). The times are exactly those of
comm/ring.py and comm/hierarchical.py under an open clock (observe/virtual_time.py): the tests compare rank by rank.

That clock lets the messages of a link overlap. With `one_at_a_time`, a link that is free from time f on carries the
next message afterwards, so that it never exceeds its bandwidth; latencies still overlap:

    start = max(t[r-1], f)       f = start + beta bytes       t[r] = max(t[r], f + alpha)

Patarasuk, Yuan, JPDC 69(2), 2009. beta is the gap per byte of LogGP: Alexandrov et al., SPAA 1995.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import UserError, check_whole
from ..observe.virtual_time import Machine, Seconds
from ..sharding import even_shards, lengths
from .operations import Kind
from .ticks import Ticks


@dataclass(frozen=True)
class Closed(Machine):
    """A machine whose last rank is a neighbor of its first, as in a ring over all `ranks`.

    Machine.message takes as many ranks to share the link as lie between sender and receiver; from the last rank to the
    first that would be all ranks of a host, although in one ring only one message leaves a host at a time.
    """

    ranks: int = 0

    def message(self, a: int, b: int, nbytes: int) -> Seconds:
        """Return the seconds of a message: as between ranks that are the shorter way around apart."""
        if not self.crosses(a, b):
            return self.inside.takes(nbytes)
        apart = min(abs(a - b), self.ranks - abs(a - b))
        return self.between.takes(nbytes * min(self.per_host, apart))


@dataclass(frozen=True)
class Ranks:
    """The ranks of a ring.

    late: rank -> seconds by which it starts after the others. slow: rank -> a factor, by which messages to it, and its
    additions, take longer. add: seconds per element added; real runs in virtual time take none. one_at_a_time: a link
    carries one message at a time. Raise UserError for ranks that do not exist, or negative values.
    """

    machine: Machine
    count: int
    late: Mapping[int, Seconds] = field(default_factory=dict)
    slow: Mapping[int, Seconds] = field(default_factory=dict)
    add: Seconds = 0
    one_at_a_time: bool = False

    def __post_init__(self) -> None:
        check_whole("the number of ranks", self.count, 1)
        for name, given in (("late", self.late), ("slow", self.slow)):
            for rank, value in given.items():
                if not 0 <= rank < self.count or value < 0:
                    raise UserError(
                        f"{name} rank {rank}: {value}; give ranks from 0 to {self.count - 1}, and values of at least 0"
                    )


@dataclass(frozen=True)
class Times:
    """When each rank is done: ticks (N), int64."""

    ticks: np.ndarray
    unit: Ticks

    def __getitem__(self, rank: int) -> Seconds:
        return self.unit.seconds(self.ticks[rank])

    @property
    def last(self) -> Seconds:
        """Seconds until the last rank is done."""
        return self.unit.seconds(self.ticks.max())


class Rings:
    """Rings of n ranks each, which run at the same time. members (rings, n): their ranks in the world.

    elements: the length of each ring's array, whose chunks are cut by even_shards: of two sizes at most.
    """

    def __init__(self, ranks: Ranks, members: np.ndarray, elements: Sequence[int], itemsize: int) -> None:
        self.members, n = members, members.shape[1]
        sizes = [lengths(even_shards(size, n)) for size in elements]
        self.longer = np.array([[size > row[-1] for size in row] * 2 for row in sizes])  # (rings, 2 n): chunk c, twice
        edges = [
            (left, rank, row)
            for ring, row in zip(members.tolist(), sizes, strict=True)
            for left, rank in zip([ring[-1], *ring[:-1]], ring, strict=True)
        ]
        # of the shorter chunks, and of the longer ones
        self.messages = [
            [ranks.slow.get(r, 1) * ranks.machine.message(left, r, row[at] * itemsize) for left, r, row in edges]
            for at in (-1, 0)
        ]
        self.latencies = [ranks.slow.get(r, 1) * ranks.machine.message(left, r, 0) for left, r, _ in edges]
        self.free = np.zeros(members.shape, np.int64) if ranks.one_at_a_time else None  # when each link is
        self.additions = [[ranks.slow.get(r, 1) * ranks.add * row[at] for _, r, row in edges] for at in (-1, 0)]

    @property
    def costs(self) -> set[Seconds]:
        """The different costs, in seconds."""
        return {cost for costs in (*self.messages, *self.additions, self.latencies) for cost in costs}

    def follow(self, times: np.ndarray, unit: Ticks, ahead: int, adds: bool) -> None:
        """Advance the times (N) of all ranks by N - 1 steps, in the s-th of which rank r receives chunk r - ahead - s.

        adds: to its own. Raise UserError if times may overflow.
        """
        t = times[self.members]
        n = t.shape[1]
        in_ticks = lambda costs: unit.array(costs).reshape(t.shape)
        short, long = map(in_ticks, self.messages)
        plus = [*map(in_ticks, self.additions)] if adds and any(self.additions[1]) else []
        latency = in_ticks(self.latencies)
        unit.check(int(t.max()) + (n - 1) * (int(long.max()) + sum(int(each.max()) for each in plus)))
        arrival = np.empty_like(t)
        for step in range(n - 1):
            first = (-ahead - step) % n  # the chunk of the first rank
            longer = self.longer[:, first : first + n]
            arrival[:, 1:], arrival[:, 0] = t[:, :-1], t[:, -1]
            if self.free is not None:
                np.maximum(arrival, self.free, out=arrival)
            arrival += np.where(longer, long, short)
            if self.free is not None:
                np.subtract(arrival, latency, out=self.free)
            np.maximum(t, arrival, out=t)
            if plus:
                t += np.where(longer, plus[1], plus[0])
        times[self.members] = t


def ring(ranks: Ranks, kind: Kind, length: int, itemsize: int = 4) -> Times:
    """Follow a flat ring's collective on `length` elements of `itemsize` bytes.

    Raise UserError if times may overflow.
    """
    rings = Rings(ranks, np.arange(ranks.count)[None], [length], itemsize)
    return followed(ranks, [(rings, kind)])


def hierarchical(ranks: Ranks, length: int, itemsize: int = 4) -> Times:
    """Follow a hierarchical all-reduce over hosts of `machine.per_host` ranks. Raise UserError as `ring`.

    Raise UserError, too, unless all hosts have equally many ranks.
    """
    per_host = ranks.machine.per_host or ranks.count
    if ranks.count % per_host:
        raise UserError(
            f"{ranks.count} ranks are no whole number of hosts of {per_host}; give a multiple of {per_host}"
        )
    hosts = np.arange(ranks.count).reshape(-1, per_host)
    inside = Rings(ranks, hosts, [length] * len(hosts), itemsize)
    across = Rings(ranks, hosts.T, lengths(even_shards(length, per_host)), itemsize)
    return followed(ranks, [(inside, "reduce_scatter"), (across, "all_reduce"), (inside, "all_gather")])


def followed(ranks: Ranks, collectives: Sequence[tuple[Rings, Kind]]) -> Times:
    """Return when each rank has ended these collectives, one after the other."""
    unit = Ticks({cost for rings, _ in collectives for cost in rings.costs} | {*ranks.late.values()})
    times = np.zeros(ranks.count, np.int64)
    for rank, seconds in ranks.late.items():
        times[rank] = unit.array([seconds])[0]
    for rings, kind in collectives:
        if kind != "all_gather":
            rings.follow(times, unit, ahead=2, adds=True)
        if kind != "reduce_scatter":
            rings.follow(times, unit, ahead=1, adds=False)
    return Times(times, unit)
