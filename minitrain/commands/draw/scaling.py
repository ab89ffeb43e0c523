"""The time of an update over the number of ranks, simulated; with --measure, real updates on this machine, too.

    weak scaling      a replica keeps its samples, and the batch grows with the ranks: ideally, the time is constant
    strong scaling    the batch stays, and a replica has ever fewer samples: ideally, the time is that of N_0 ranks,
                      times N_0 / N

More ranks are added by data parallel, so three things move the curves away from the ideal. A ring's all-reduce of the
gradients pays 2 (dp - 1) latencies for each bucket. With fewer micro-batches m, a pipeline of p stages idles more, for
(p - 1) / (m + p - 1) of the time. And all wait for a rank that is slow: the dashed line (planner/fleet.py).

The simulation counts products of matrices and messages, at constant rates (planner/step.py). A real update also runs
Python and elementwise operations, copies gradients into buckets, and makes the next batch. The measured FLOP/s include
these only in proportion to the FLOPs, as found alone, with 8 sequences. The time that they take for each operation,
however few samples there are, is not simulated; nor are caches and memory that the ranks of a host share, and other
programs. The line has the rates that the most ranks find; fewer may be faster, each with more of the memory's bandwidth
and a core that no other rank shares: "own" in the numbers is simulated with the rates that so many ranks find.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import partial
from textwrap import wrap
from typing import Any, NamedTuple

import tyro

from ...environment import cores, launched
from ...errors import UserError, check_number, check_whole, shown
from ...observe.palette import INK, LINES
from ...parallel.strategy import Strategy
from ...planner.machines import Computer
from ...planner.measure import trains_here
from ...planner.scaling import check, scaled, update_row
from ...planner.search import setup_for
from ...planner.setup import Setup
from ...train.progress import Progress
from ..plan_options import MOST_RANKS, PlannedModel
from ..plan_report import percent, seconds
from ..simulate import SimulatedMachine
from .drawing import Drawing, Numbers, Picture
from .landscape import plain_scale
from .planned import request_of
from .timed import Setups, measured_here

SAYS = {"weak": "weak scaling: the batch grows", "strong": "strong scaling: the batch stays"}


class Usual(NamedTuple):
    """What holds where no option is given. replicas, at: ranks, divided by pp x tp."""

    model: str
    pp: int
    tp: int
    accumulate: int
    replicas: tuple[int, ...]
    at: int
    slow: float


LARGE = Usual("gpt3-13b", 2, 8, 4, (1, 4, 16, 64, 256, 1024), 64, 2.0)
SMALL = Usual("minitrain-3m", 1, 1, 1, (1, 2, 4, 8, 16), 1, 1.0)  # with --measure


def first_of(model: PlannedModel, machine: SimulatedMachine, usual: Usual) -> Setup:
    """Return the update of which the others are scaled. Raise UserError for invalid options."""
    request, mesh = request_of(model, machine), (usual.at, usual.pp, usual.tp)
    strategy = Strategy(reduce="overlap" if request.overlap else "bucketed")
    first = setup_for(request, mesh, request.precisions[0], usual.accumulate, strategy)
    check(first)
    return first


def updates(first: Setup, ranks: Sequence[int], weak: bool) -> dict[int, Setup]:
    """Return ranks -> update; without those of strong scaling in which a replica would have no sample."""
    every = (scaled(first, n, weak) for n in ranks)
    return {one.ranks: one for one in every if one.dp * one.accumulate <= one.batch}


def simulated(setups: Setups, computer: Computer, slow: float) -> Numbers:
    """Return a row for each update: its time, how the ranks spend it on average, the ideal, and with one slow rank."""
    every = [(kind, one) for kind, few in setups.items() for one in few.values()]
    found: Numbers = {kind: [] for kind in setups}
    late = {0: Fraction(str(slow))} if slow != 1 else {}
    for kind, one in Progress().watch(every, len(every), "simulation", "updates"):
        row = update_row(one, computer.machine, late)
        spent, rows = row.alone, found[kind]
        first = rows[0] if rows else {"seconds": spent.time, "ranks": row.ranks}
        ideal = first["seconds"] * (first["ranks"] / row.ranks if kind == "strong" else 1)
        rows.append({
            "ranks": row.ranks, "dp": row.dp, "batch": row.batch, "micro_batches": row.micro_batches,
            "seconds": spent.time, "computing": spent.busy, "bubble": spent.bubble, "exposed": spent.exposed,
            "ideal": ideal, **({"one_slow": row.slowed.time} if late else {}),
        })  # fmt: skip
    return found


def draw(numbers: Numbers, panels: Any) -> None:
    """Draw weak and strong scaling on two matplotlib axes, with the same logarithmic scales."""
    every = [row for kind in SAYS for row in (*numbers[kind], *numbers.get("measured", {}).get(kind, ()))]
    per, unit = (1, "s") if max(row["seconds"] for row in every) >= 1 else (1000, "ms")
    low, high = (f(x * per for row in every for x in times_in(row)) for f in (min, max))
    for axes, (kind, says) in zip(panels, SAYS.items(), strict=True):
        rows = numbers[kind]
        at, look = [row["ranks"] for row in rows], {"markersize": 3.5, "linewidth": 1.6}
        simulated = [row["seconds"] * per for row in rows]
        axes.plot(at, simulated, "-" if "measured" in numbers else "o-", color=LINES[0], label="simulated", **look)
        if numbers["slow"] != 1:
            slowed, label = [row["one_slow"] * per for row in rows], f"one rank {numbers['slow']:g} times as slow"
            axes.plot(at, slowed, "s--", color=LINES[1], label=label, zorder=1.9, **look)
        ideal = [row["ideal"] * per for row in rows]
        axes.plot(at, ideal, color=INK, linestyle="-", linewidth=0.8, label="ideal", zorder=1.8)
        draw_points(numbers.get("measured", {}).get(kind, ()), per, axes)
        plain_scale(axes)
        axes.set(ylim=(low / 1.25, high * 1.25), xlabel="ranks", ylabel=f"time of an update, {unit}")
        ticks = sorted({*(row["ranks"] for row in numbers["weak"])})
        axes.set_xticks(ticks, [f"{n:,}" for n in ticks], fontsize=8)
        axes.minorticks_off()
        axes.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
        axes.set_title(says, fontsize=9, loc="left")
    panels[1].set_ylabel("")
    panels[0].legend(loc="best", fontsize=8)


def draw_points(points: Sequence[Numbers], per: int, axes: Any) -> None:
    """Draw measured times: the median of the rounds, and a bar from the lowest to the highest."""
    if points:
        at, middle = [row["ranks"] for row in points], [row["seconds"] * per for row in points]
        ends = [[abs(row[end] - row["seconds"]) * per for row in points] for end in ("lowest", "highest")]
        look = {"color": LINES[1], "markersize": 5.5, "linewidth": 1.2, "capsize": 3}
        axes.errorbar(at, middle, yerr=ends, fmt="D", label="measured", **look)


def times_in(row: Numbers) -> list[float]:
    """Return all times in a row that are drawn."""
    return [row[name] for name in ("seconds", "ideal", "one_slow", "lowest", "highest") if name in row]


def text(numbers: Numbers) -> str:
    """Return a table for each kind of scaling, and one of the measured times."""
    slow, lines = numbers["slow"], [f"{numbers['model']}, {numbers['says']}"]
    heads = f"{'time':>9}{'computing':>11}{'bubble':>8}{'exposed':>9}" + f"{'slow':>9}" * (slow != 1)
    for kind, says in SAYS.items():
        lines += ["", f"{says:<34}{heads}"]
        lines += [f"{'ranks':>7}{'batch':>9}{'dp':>6}{'k':>12}"]
        for row in numbers[kind]:
            shares = [percent(row[name] / row["seconds"]) for name in ("computing", "bubble", "exposed")]
            cells = f"{row['ranks']:>7,}{row['batch']:>9,}{row['dp']:>6,}{row['micro_batches']:>12,}"
            cells += f"{seconds(row['seconds']):>9}{shares[0]:>11}{shares[1]:>8}{shares[2]:>9}"
            lines.append(cells + (f"{seconds(row['one_slow']):>9}" if "one_slow" in row else ""))
    lines += ["", "k: micro-batches; exposed: communication that nothing hides"]
    lines += [f"slow: the time if rank 0 computes {slow:g} times as long"] * (slow != 1)
    return "\n".join([*lines, *measured_text(numbers)])


def measured_text(numbers: Numbers) -> list[str]:
    """Return a table of the measured times next to the simulated ones; empty without --measure."""
    if "measured" not in numbers:
        return []
    lines = ["", *(line for told in numbers["lines"] for line in wrap(told, 80)), ""]
    lines.append(f"{'':<8}{'ranks':>6}{'simulated':>11}{'own rates':>11}{'measured':>10}   lowest to highest round")
    for kind, points in numbers["measured"].items():
        told = {row["ranks"]: row["seconds"] for row in numbers[kind]}
        for row in points:
            line, own, time, *ends = (
                seconds(x) for x in (told[row["ranks"]], *(row[x] for x in ("own", "seconds", "lowest", "highest")))
            )
            lines.append(f"{kind:<8}{row['ranks']:>6}{line:>11}{own:>11}{time:>10}   {' to '.join(ends)}")
    lines.append("own rates: simulated with the rates that so many ranks find, not the most")
    return lines


@dataclass(frozen=True)
class ScaledModel(PlannedModel):
    """The model. Sizes that are not given are the preset's."""

    model: tyro.conf.Positional[str] = "auto"
    """Name of a preset; `plan --list` shows them. auto: gpt3-13b, or with --measure minitrain-3m."""
    batch: int | None = None
    """Sequences per update on --at ranks, and in strong scaling on all. None: the preset's."""


@dataclass(frozen=True)
class Scaling(Picture):
    """Draw the time of an update over the number of ranks: weak and strong scaling, simulated. With --measure, a small
    model, and real updates on this machine."""

    name = "scaling"

    model: ScaledModel = field(default_factory=ScaledModel)
    machine: SimulatedMachine = field(default_factory=SimulatedMachine)
    ranks: tuple[int, ...] = ()
    """Numbers of ranks to simulate, multiples of --pp x --tp. None given: that, times 1 4 16 64 256 1024; with
    --measure times 1 2 4 8 16, as if all were on this host."""
    pp: int | None = None
    """Ranks that divide the layers. None: 2; with --measure 1."""
    tp: int | None = None
    """Ranks that divide every matrix. None: 8; with --measure 1."""
    at: int | None = None
    """Ranks on which weak and strong scaling are the same update. None: --pp x --tp x 64; with
    --measure --pp x --tp."""
    accumulate: int | None = None
    """Micro-batches on --at ranks, and in weak scaling on all. None: 4; with --measure 1. In strong scaling, the
    samples of a micro-batch stay."""
    slow: float | None = None
    """The factor by which rank 0 computes longer, for the dashed line; 1: no such line. None: 2; with --measure 1."""
    measure: bool = False
    """Measure this machine and real updates on it, in jobs that mpirun starts, and simulate the same model on it."""
    measured_ranks: tuple[int, ...] = ()
    """Numbers of ranks to measure, multiples of --pp x --tp. None given: the fewest, and as many as there are cores."""
    rounds: int = 5
    """Rounds of three updates to measure, of which the median is drawn."""

    def drawing(self) -> Drawing:
        """Return the curves. Raise UserError for invalid options, or if this machine cannot be measured."""
        usual = self.usual()
        here = self.to_measure(usual)
        ranks = sorted({*(self.ranks or (n * usual.pp * usual.tp for n in usual.replicas)), *here})
        for n in ranks:
            check_whole("--ranks", n, 1, MOST_RANKS)
        if len(ranks) < 2:
            raise UserError(f"--ranks is {shown(ranks)}; give at least two numbers")
        model = replace(self.model, model=usual.model)
        machine = replace(self.machine, machine="laptop", per_host=ranks[-1]) if self.measure else self.machine
        first = first_of(model, machine, usual)
        setups = {kind: updates(first, ranks, kind == "weak") for kind in SAYS}
        computer = machine.computer()
        numbers: Numbers = {}
        if self.measure:
            if not trains_here(first.sizes):
                raise UserError(f"{usual.model} is too large to be trained again and again here; give a smaller model")
            computer, numbers = measured_here(setups, here, self.rounds, computer)
        says = f"pp {usual.pp} x tp {usual.tp}, {first.batch:,} sequences on {first.ranks:,} rank(s)"
        numbers |= {"model": usual.model, "says": says, "slow": usual.slow, "machine": asdict(computer)}
        numbers |= simulated(setups, computer, usual.slow)
        return Drawing(numbers, partial(draw, numbers), text(numbers), columns=2, height=3.2)

    def usual(self) -> Usual:
        """Return the options, and what holds where none is given. Raise UserError for invalid ones."""
        usual = SMALL if self.measure else LARGE
        names = ("pp", "tp", "accumulate", "slow")
        usual = usual._replace(**{name: value for name in names if (value := getattr(self, name)) is not None})
        for name in ("pp", "tp", "accumulate"):
            check_whole(f"--{name}", getattr(usual, name), 1, MOST_RANKS)
        check_number("--slow", usual.slow, "above 0")
        check_whole("--rounds", self.rounds, 1, 1000)
        if self.at is not None:
            check_whole("--at", self.at, 1, MOST_RANKS)
            if self.at % (usual.pp * usual.tp):
                raise UserError(f"--at is {self.at}, which pp {usual.pp} x tp {usual.tp} does not divide")
            usual = usual._replace(at=self.at // (usual.pp * usual.tp))
        return usual if self.model.model == "auto" else usual._replace(model=self.model.model)

    def to_measure(self, usual: Usual) -> tuple[int, ...]:
        """Return the numbers of ranks to measure, in order: none without --measure. Raise UserError for bad ones."""
        if not self.measure:
            if self.measured_ranks:
                raise UserError("--measured-ranks needs --measure: without it, nothing is measured")
            return ()
        if launched()[2] > 1:
            raise UserError("--measure starts its own ranks; run draw without mpirun")
        if self.machine != SimulatedMachine():
            raise UserError("--measure measures this machine; leave out --machine, and figures of another one")
        few = usual.pp * usual.tp
        for n in self.measured_ranks:
            check_whole("--measured-ranks", n, 1, MOST_RANKS)
        return tuple(sorted({*(self.measured_ranks or (few, max(few, cores() // few * few)))}))
