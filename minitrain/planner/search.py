"""Every strategy for a model on a number of ranks: what fits, in order of time, and why the others do not.

    for found in search(request): ...

Up to `THOROUGH` ranks every combination is followed. Above, only those that may be among the fastest are, by a lower
bound of their time (bounds.py). Those that cannot be are not: naive pipelines, unless asked for, and what saves more
memory than is needed, since ZeRO and recomputation send or compute more.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from ..comm.mesh import Mesh
from ..errors import UserError
from ..observe.virtual_time import Machine
from ..parallel.pipeline_schedules import SCHEDULES, default_chunks, layout_of
from ..parallel.strategy import Strategy
from .bounds import least_memory, least_time
from .estimate import Estimate, estimate
from .setup import Setup
from .sizes import Sizes

THOROUGH = 16  # ranks
MICRO_BATCHES = (1, 2, 4, 8)  # samples in a micro-batch to try
UNEVEN = 64  # micro-batches to try at most, if they are not equal: such an update is followed to its end


@dataclass(frozen=True)
class Request:
    """What to plan: a model on `ranks` ranks with `memory` bytes each. batch: sequences per update, over all ranks.

    precisions: "fp32", "fp16", "bf16", or with "-weights" those with half-precision weights and gradients. fixed: the
    values to which a search is limited, by name: dp, pp, tp, zero, recompute, sp, schedule, accumulate. overlap: reduce
    gradients, and gather ZeRO-3's parameters, while computing. top: of how many
    meshes to find the fastest above `THOROUGH` ranks.
    """

    sizes: Sizes
    ranks: int
    memory: float
    batch: int
    machine: Machine
    precisions: tuple[str, ...] = ("fp32",)
    fixed: dict[str, Any] = field(default_factory=dict)
    overlap: bool = False
    flash: bool = False
    top: int = 10

    @property
    def thorough(self) -> bool:
        """Whether to try what other combinations beat."""
        return self.ranks <= THOROUGH


@dataclass(frozen=True)
class Rejected:
    """A combination that cannot run, or does not fit. over: bytes beyond the limit; 0 if it cannot run at all."""

    setup: Setup | None
    dp: int
    pp: int
    tp: int
    reason: str
    over: float = 0.0


@dataclass(frozen=True)
class Slower:
    """A combination that is not among the fastest, whether it fits or not: it takes at least so many seconds."""

    setup: Setup
    least_time: float


Found = Estimate | Rejected | Slower


def search(request: Request) -> Iterator[Found]:
    """Yield what is known of every combination, those that fit last and the fastest of these first."""
    pool: list[tuple[float, int, Setup]] = []
    for axes in shapes(request):
        if reason := impossible(request, *axes):
            yield Rejected(None, *axes, reason)
            continue
        groups = [*setups(request, *axes)]
        if not any(groups):
            pp = axes[1]
            none = f"pp {pp} divides no number of micro-batches tried"
            if request.fixed.get("schedule") == "dualpipe":
                none = f"pp {pp} needs {2 * pp}, {2 * pp + 2}, ... micro-batches; none was tried"
            yield Rejected(None, *axes, f"schedule {request.fixed.get('schedule', 'interleaved')}: {none}")
        for number, alike in enumerate(groups):
            for setup in alike:
                least = least_memory(setup)
                over = sum(least.values()) - request.memory
                if over > 0:
                    yield Rejected(setup, *axes, max(least, key=lambda kind: least[kind]), over)
                else:
                    pool.append((least_time(setup, request.machine), hash((axes, number)), setup))
    yield from followed(request, sorted(pool, key=lambda it: it[0]))


def followed(request: Request, pool: list[tuple[float, int, Setup]]) -> Iterator[Found]:
    """Follow the updates that could be among the fastest. pool: (lower bound of seconds, group of those that differ in
    what saves memory, setup), in order of the bounds."""
    fits: dict[int, list[Setup]] = {}
    best: dict[tuple[int, int, int], float] = {}  # the seconds of each mesh's fastest
    for bound, group, setup in pool:
        mesh, fastest = (setup.dp, setup.pp, setup.tp), sorted(best.values())
        late = bound > best.get(mesh, math.inf) or (len(fastest) >= request.top and bound > fastest[request.top - 1])
        if not request.thorough and (late or any(saves_less(other, setup) for other in fits.get(group, ()))):
            yield Slower(setup, bound)
            continue
        found = tried(request, setup)
        if isinstance(found, Estimate):
            fits.setdefault(group, []).append(setup)
            best[mesh] = min(best.get(mesh, math.inf), float(found.time))
        yield found


def saves_less(a: Setup, b: Setup) -> bool:
    """Return whether a does without some of what b does to save memory, and does nothing else."""
    if a.strategy.sp != b.strategy.sp:  # it sends more along tp, but less between stages
        return False
    one, other = ((s.strategy.zero, s.strategy.recompute) for s in (a, b))
    hidden = b.strategy.prefetch and not a.strategy.prefetch  # what ZeRO-3 sends may be hidden, what others send not
    return not hidden and all(x <= y for x, y in zip(one, other, strict=True))


def shapes(request: Request) -> Iterator[tuple[int, int, int]]:
    """Yield every (dp, pp, tp) whose product is the number of ranks."""
    n, fixed = request.ranks, request.fixed
    divisors = [d for d in range(1, n + 1) if n % d == 0]
    for tp, pp in product(divisors, divisors):
        if n % (tp * pp) == 0:
            shape = {"dp": n // (tp * pp), "pp": pp, "tp": tp}
            if all(fixed.get(axis, size) == size for axis, size in shape.items()):
                yield n // (tp * pp), pp, tp


def impossible(request: Request, dp: int, pp: int, tp: int) -> str:
    """Return why the ranks cannot be divided like this, or ""."""
    s = request.sizes
    if pp > s.units:
        return f"pp {pp}: there are {s.units} units (the embedding, {s.layers} blocks, the head); pp at most {s.units}"
    if tp > s.kv_heads:
        kind = "heads of keys and values" if s.kv_heads < s.heads else "heads"
        return f"tp {tp}: attention has {s.kv_heads} {kind}; tp at most {s.kv_heads}"
    if dp > request.batch:
        return f"dp {dp}: the batch has {request.batch} sequences, one per rank needs {dp}; a larger batch"
    return unmet(request, dp, pp, tp)


def unmet(request: Request, dp: int, pp: int, tp: int) -> str:
    """Return which of the fixed values these axes cannot have, and why, or ""."""
    fixed, units = request.fixed, request.sizes.units
    zero, k, order = fixed.get("zero", 0), fixed.get("accumulate", 1), fixed.get("schedule", "1f1b")
    if zero and dp == 1:
        return f"zero {zero} with dp 1: ZeRO divides what the dp ranks hold; dp at least 2"
    if zero > 1 and pp > 1:
        return f"zero {zero} with pp {pp}: in a pipeline, zero is at most 1"
    if fixed.get("sp") and tp == 1:
        return "sp with tp 1: sequence parallel divides among the tp ranks; tp at least 2"
    if order != "1f1b" and pp == 1:
        return f"schedule {order} with pp 1: there is no pipeline; pp at least 2"
    if order in ("interleaved", "zb-v") and 2 * pp > units:
        return f"schedule {order} with pp {pp}: two chunks a rank need {2 * pp} units, there are {units}"
    if dp * k > request.batch:
        return f"accumulate {k} with dp {dp}: the batch has {request.batch} sequences, but {k} x {dp} are needed"
    if order == "interleaved" and "accumulate" in fixed and k % pp:
        return f"schedule interleaved with accumulate {k}: pp {pp} does not divide it"
    if order == "dualpipe" and (pp % 2 or ("accumulate" in fixed and (k % 2 or k < 2 * pp))):
        return f"schedule dualpipe with pp {pp}: both pp and accumulate must be even, and accumulate at least twice pp"
    return ""


def setups(request: Request, dp: int, pp: int, tp: int) -> Iterator[list[Setup]]:
    """Yield lists of setups that can run, which differ only in what saves memory: ZeRO, sp and recomputation.

    In each list, what saves less comes first.
    """
    per_rank, fixed = request.batch // dp, request.fixed  # each micro-batch needs a sample on every rank
    micros = sorted({-(-per_rank // samples) for samples in MICRO_BATCHES if samples <= per_rank} | {1})
    micros = sorted({k if request.batch % (dp * k) == 0 else min(k, UNEVEN) for k in micros})
    micros = [fixed["accumulate"]] if "accumulate" in fixed else micros
    savers = product(range(4) if dp > 1 else (0,), (False, True) if tp > 1 else (False,), (0, 1))
    zeros_sp_recomputes = [
        saver for saver in savers
        if all(fixed.get(name, mine) == mine for name, mine in zip(("zero", "sp", "recompute"), saver, strict=True))
    ]  # fmt: skip
    for precision, (schedule, chunks), k in product(request.precisions, schedules(request, pp), micros):
        every = [
            setup_for(
                request,
                (dp, pp, tp),
                precision,
                k,
                Strategy(zero, recompute=recompute, sp=sp, schedule=schedule, chunks=chunks),
            )
            for zero, sp, recompute in zeros_sp_recomputes
        ]
        yield [setup for setup in every if runs(setup)]


def setup_for(request: Request, axes: tuple[int, int, int], precision: str, k: int, strategy: Strategy) -> Setup:
    """Return the setup with this strategy, which overlaps communication with computing if the machine does."""
    if request.overlap and axes[0] > 1:
        strategy = replace(strategy, reduce="overlap", prefetch=strategy.zero == 3)
    kind, _, weights = precision.partition("-")
    return Setup(
        request.sizes, request.batch, *axes, strategy, k, kind, bool(weights),  # type: ignore[arg-type]
        scaled=kind == "fp16", flash=request.flash,
    )  # fmt: skip


def schedules(request: Request, pp: int) -> list[tuple[str, int | None]]:
    """Return pairs (schedule, chunks) to try; None: the schedule's number of chunks."""
    if pp == 1:
        return [("1f1b", None)]
    names = [name for name in SCHEDULES if request.thorough or name != "naive"]
    names = [request.fixed["schedule"]] if "schedule" in request.fixed else names
    pairs: list[tuple[str, int | None]] = [(name, None) for name in names if name != "interleaved"]
    pairs += [("interleaved", v) for v in (2, 4) if "interleaved" in names]
    return [
        (name, v) for name, v in pairs if layout_of(name, pp, v or default_chunks(name)).stages <= request.sizes.units
    ]


class Axes:
    """The sizes of a mesh, without ranks."""

    along = staticmethod(Mesh.along)

    def __init__(self, setup: Setup) -> None:
        self.sizes = {"dp": setup.dp, "pp": setup.pp, "tp": setup.tp}

    def parts(self, *what: str) -> int:
        """Return the number of parts these are divided into."""
        n = 1
        for axis in self.along(*what):
            n *= self.sizes[axis]
        return n


def runs(setup: Setup) -> bool:
    """Return whether the library would run this strategy."""
    try:
        setup.strategy.check_on(Axes(setup), setup.accumulate)  # type: ignore[arg-type]
    except UserError:
        return False
    return True


def tried(request: Request, setup: Setup) -> Found:
    """Return the estimate of a setup, or why it does not fit."""
    found = estimate(setup, request.machine)
    over = float(found.memory["total"]) - request.memory
    if over <= 0:
        return found
    largest = max((kind for kind in found.memory if kind != "total"), key=lambda kind: found.memory[kind])
    return Rejected(setup, setup.dp, setup.pp, setup.tp, largest, over)
