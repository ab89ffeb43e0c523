"""Lower bounds of an update's memory and time, a thousand times faster than following it.

    memory    parameters and optimizer, and the larger of gradients and activations, on the first stage of a pipeline
    time      the busiest rank computes all its micro-batches, after the stages before it have computed their first one
              and before they return its last gradient (zero-bubble: it may still compute weight gradients meanwhile);
              or all communication along dp, if that takes longer

The search follows only those updates that could still be among the fastest.
"""

from dataclasses import dataclass
from functools import lru_cache

from ..observe.virtual_time import Machine
from ..parallel.instructions import Layout
from ..parallel.pipeline_schedules import SCHEDULES, default_chunks
from .operations import Collective, Local, Step, length
from .setup import Setup, units_of
from .sizes import Sizes
from .units import operations


@dataclass(frozen=True)
class UnitTimes:
    """Seconds of a unit's forward, and of the gradients of its inputs and weights."""

    forward: float
    inputs: float
    weights: float


def local_of(setup: Setup) -> Local:
    """Return what the rank with the largest share sees of its smallest micro-batch, the last one."""
    s = setup
    samples = length(length(s.batch, s.dp, 0), s.accumulate, s.accumulate - 1)
    return Local(s.sizes, samples, s.tp, 0, s.strategy.sp, s.flash, s.item, s.acc_item, s.id_bytes)


@lru_cache(maxsize=10_000)
def unit_times(local: Local, unit: int, machine: Machine) -> UnitTimes:
    """Return the seconds of a unit, communication along tp included."""

    def seconds(steps: tuple[Step, ...]) -> float:
        total = 0.0
        for step in steps:
            if isinstance(step, Collective):
                total += float(machine.ring(range(local.t), step.hops(local.t), step.largest(local.t)))
            else:
                total += float(step * machine.flop)
        return total

    ops = operations(local, unit)
    weights = sum(seconds(steps) for op in ops for _, steps in op.weights if steps)
    return UnitTimes(sum(seconds(op.forward) for op in ops), sum(seconds(op.inputs) for op in ops), weights)


def least_time(setup: Setup, machine: Machine) -> float:
    """Return a lower bound of an update's seconds."""
    s, strategy, local = setup, setup.strategy, local_of(setup)
    replayed = bool(strategy.recompute)

    def times(stage: int) -> UnitTimes:
        units = [min(unit, 1) if unit < s.sizes.units - 1 else unit for unit in s.stages[stage]]  # blocks are alike
        every = [unit_times(local, unit, machine) for unit in units]
        f, i, w = (sum(getattr(t, name) for t in every) for name in ("forward", "inputs", "weights"))
        return UnitTimes(f, i + replayed * f, w)

    stages = [times(stage) for stage in range(len(s.stages))]
    longest, before, splits = 0.0, 0.0, isinstance(strategy.schedule, str) and splits_backward(strategy.schedule)
    for rank in range(s.pp):
        mine = [stages[s.layout.stage(rank, c)] for c in range(s.layout.v)]
        work = s.accumulate * sum(t.forward + t.inputs + t.weights for t in mine) / s.layout.replicas
        longest = max(longest, before + work)
        if s.layout.replicas == 1:  # otherwise the last rank begins at once, too
            before += stages[rank].forward + (0.0 if splits else stages[rank].inputs)
    during, after = communication(setup, machine)
    return (longest + during if strategy.reduce != "overlap" else max(longest, during)) + after


@lru_cache
def splits_backward(schedule: str) -> bool:
    """Return whether a schedule computes weight gradients apart, so that a rank may do so while others end."""
    return any(do.kind == "W" for do in SCHEDULES[schedule](0, 2, 4, default_chunks(schedule)))


def communication(setup: Setup, machine: Machine) -> tuple[float, float]:
    """Return the seconds that the first stage communicates along dp during backward, and after the optimizer's step."""
    s, zero, k = setup, setup.strategy.zero, setup.accumulate
    ranks = [s.rank_at(dp, 0, 0) for dp in range(s.dp)]
    shard = -(-held(setup) // s.dp)
    if s.dp == 1 or s.layout.replicas > 1:  # the replicas of a stage are on other ranks: other rings
        return 0.0, 0.0

    def ring(item: int, passes: int) -> float:
        return float(machine.ring(ranks, passes * (s.dp - 1), item * shard))

    reduce, gather = ring(s.acc_item, 1), ring(s.stored, 1)
    times = k if zero >= 2 and not s.strategy.reduce_once else 1
    if zero == 0:
        return ring(s.acc_item, 2), 0.0
    return (times * reduce + 2 * k * gather, 0.0) if zero == 3 else (times * reduce, gather)


def held(setup: Setup) -> int:
    """Return the number of parameters on the first stage."""
    s = setup
    return _held(s.sizes, s.layout, s.tp)


@lru_cache(maxsize=1000)
def _held(sizes: Sizes, layout: Layout, tp: int) -> int:
    units = [unit for c in range(layout.v) for unit in units_of(sizes, layout.stages, layout.stage(0, c))]
    every = {w.path: w for unit in units for w in sizes.weights(unit)}
    return sum(w.local(tp, 0) for w in every.values())


def least_memory(setup: Setup) -> dict[str, int]:
    """Return a lower bound of the bytes by kind on the first stage, which has most micro-batches in flight."""
    s, strategy, local = setup, setup.strategy, local_of(setup)
    size = held(setup)
    parts = {least: -(-size // s.dp) if strategy.zero >= least else size for least in (1, 2, 3)}
    kept = tuple(kept_by(local, s.stages[s.layout.stage(0, c)], strategy.recompute) for c in range(s.layout.v))
    schedule = strategy.schedule if isinstance(strategy.schedule, str) else "1f1b"
    activations = most_kept(schedule if s.pp > 1 else "naive", s.pp, s.accumulate, kept)
    gradients = s.stored * parts[2]
    bound = {"parameters": s.stored * parts[3], "optimizer": s.state * parts[1]}
    return bound | ({"activations": activations} if activations > gradients else {"gradients": gradients})


@lru_cache(maxsize=10_000)
def kept_by(local: Local, units: range, recompute: int) -> tuple[int, int]:
    """Return the bytes that units keep of a micro-batch until I, and until W."""
    if recompute:
        return sum(local.stream for unit in units if unit > 0), 0
    ops = [op for unit in units for op in operations(local, unit)]
    return sum(op.kept for op in ops), sum(op.kept_for_weights for op in ops)


@lru_cache(maxsize=10_000)
def most_kept(schedule: str, pp: int, k: int, kept: tuple[tuple[int, int], ...]) -> int:
    """Return the most bytes that the first rank keeps. kept: for each of its chunks, as of `kept_by`."""
    most = now = 0
    for do in SCHEDULES[schedule](0, pp, k, len(kept)):
        until_i, until_w = kept[do.chunk]
        now += {"F": until_i + until_w, "B": -until_i - until_w, "I": -until_i, "W": -until_w}[do.kind]
        most = max(most, now)
    return most
