"""How collectives and updates scale from a few ranks to thousands: the rows of tables and figures.

    weak scaling      every replica keeps its share of the batch: the batch grows with dp
    strong scaling    the batch stays: every replica makes fewer micro-batches, and the pipeline idles more

Each row also says what ranks that are late or slow cost, since all others wait for them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..errors import UserError
from ..observe.virtual_time import Machine, Seconds
from .fleet import Fleet
from .fleet_costs import place
from .rings import Closed, Ranks, hierarchical, ring
from .search import Axes
from .setup import Setup

ITEM = 4  # bytes of a float32


@dataclass(frozen=True)
class RingRow:
    """Seconds of an all-reduce of `ranks` ranks, and of the same with late and slow ranks."""

    ranks: int
    flat: float
    hierarchical: float
    flat_delayed: float
    hierarchical_delayed: float


def ring_row(
    machine: Machine, ranks: int, nbytes: int, late: Mapping[int, Seconds], slow: Mapping[int, Seconds]
) -> RingRow:
    """Return how long all-reducing nbytes of float32 takes. late, slow: see `rings.Ranks`.

    A link carries one message at a time. Fewer ranks than a host has are one host.
    Raise UserError for ranks that do not exist, or do not fill their hosts.
    """
    closed = Closed(machine.flop, machine.inside, machine.between, min(machine.per_host, ranks), ranks)
    alone, n = Ranks(closed, ranks, one_at_a_time=True), nbytes // ITEM
    both = lambda some: (float(ring(some, "all_reduce", n).last), float(hierarchical(some, n).last))
    times = both(alone)
    return RingRow(ranks, *times, *(both(replace(alone, late=late, slow=slow)) if late or slow else times))


@dataclass(frozen=True)
class Spent:
    """How ranks spend an update of `time` seconds: means of all ranks, in seconds, which add up to the time.

    busy: computing. bubble: waiting for other stages. exposed: communication that nothing hides, including the wait for
    the ranks with which one communicates.
    """

    time: float
    busy: float
    bubble: float
    exposed: float


@dataclass(frozen=True)
class UpdateRow:
    """An update of `ranks` ranks, alone and with slow ranks among them.

    waiting: by how many seconds more others wait then, on average, by axis: those in a tp group with a slow rank, those
    of other stages of its replica, and those of other replicas.
    """

    ranks: int
    dp: int
    batch: int
    micro_batches: int
    alone: Spent
    slowed: Spent
    waiting: dict[str, dict[str, float]]

    @property
    def cost(self) -> float:
        """The time that slow ranks add, as a fraction."""
        return self.slowed.time / self.alone.time - 1


def update_row(setup: Setup, machine: Machine, slow: Mapping[int, Seconds]) -> UpdateRow:
    """Return how long an update takes. slow: rank -> the factor by which its FLOPs take longer. Raise as `Fleet`."""
    check(setup)
    alone, slowed = Fleet(setup, machine), Fleet(setup, machine, slow)
    waiting = {
        name: {axis: mean_seconds(slowed, axis, here) - mean_seconds(alone, axis, here) for axis in alone.blocked}
        for name, here in neighbors(setup, slow).items()
        if here.any()
    }
    return UpdateRow(setup.ranks, setup.dp, setup.batch, setup.accumulate, spent(alone), spent(slowed), waiting)


def mean_seconds(fleet: Fleet, axis: str, here: np.ndarray) -> float:
    """Return the mean seconds that an axis blocks these ranks. here: a mask (dp, pp, tp)."""
    return float(fleet.blocked[axis][here].mean()) * float(fleet.costs.unit.tick)


def spent(fleet: Fleet) -> Spent:
    """Return how the ranks spend their time, on average."""
    every = np.ones_like(fleet.times, bool)
    blocked = {axis: mean_seconds(fleet, axis, every) for axis in fleet.blocked}
    busy, bubble = float(fleet.computed.mean()) * float(fleet.costs.unit.tick), blocked.pop("pp", 0.0)
    return Spent(float(fleet.time), busy, bubble, sum(blocked.values()))


def neighbors(setup: Setup, slow: Iterable[int]) -> dict[str, np.ndarray]:
    """Return which ranks are near slow ones, without these: masks (dp, pp, tp)."""
    theirs, group, replica = np.zeros((3, setup.dp, setup.pp, setup.tp), bool)
    for rank in slow:
        dp, pp, tp = place(setup, rank)
        theirs[dp, pp, tp] = group[dp, pp] = replica[dp] = True
    return {"tp group": group & ~theirs, "other stages": replica & ~group, "other replicas": ~replica}


def scaled(setup: Setup, ranks: int, weak: bool) -> Setup:
    """Return the setup on another number of ranks, by more or fewer replicas (dp).

    weak: with as many samples per replica. Otherwise the batch stays, and so do the samples of a micro-batch, as far as
    there are enough. Raise UserError for ranks that pp and tp do not divide.
    """
    model = setup.pp * setup.tp
    if ranks % model:
        raise UserError(f"pp {setup.pp} x tp {setup.tp} does not divide {ranks} ranks; give a multiple of {model}")
    dp = ranks // model
    if weak:
        return replace(setup, dp=dp, batch=setup.batch * dp // setup.dp)
    samples = -(-setup.batch // (setup.dp * setup.accumulate))  # of a micro-batch
    return replace(setup, dp=dp, accumulate=max(1, setup.batch // dp // samples))


def check(setup: Setup) -> None:
    """Raise UserError for a strategy that cannot run on this mesh, or a batch that does not reach all ranks."""
    s = setup
    if s.dp * s.accumulate > s.batch:
        raise UserError(
            f"dp {s.dp} with {s.accumulate} micro-batches needs a batch of at least {s.dp * s.accumulate}, "
            f"but it is {s.batch}"
        )
    if s.layout.stages > s.sizes.units:
        raise UserError(
            f"pp {s.pp} with {s.layout.v} chunks needs {s.layout.stages} units, but there are {s.sizes.units}: the "
            f"embedding, {s.sizes.layers} blocks, the head"
        )
    if s.tp > s.sizes.kv_heads:
        raise UserError(
            f"tp is {s.tp}, but attention has {s.sizes.kv_heads} heads of keys and values; give at most these"
        )
    s.strategy.check_on(Axes(s), s.accumulate)  # type: ignore[arg-type]
