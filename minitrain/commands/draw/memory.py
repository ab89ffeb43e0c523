"""What a rank holds at most under several strategies, by the planner's formulas (planner/step.py).

The kinds do not peak at the same moment: gradients replace activations in the backward. A bar stacks the peaks of the
kinds; the line across it is the peak of all together.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ...errors import UserError, check_whole
from ...observe.palette import FILLS, INK
from ...parallel.pipeline_schedules import SCHEDULES, layout_of
from ...parallel.strategy import Strategy
from ...planner.holdings import KINDS
from ...planner.search import Axes, Request, impossible, setup_for
from ...planner.setup import Setup
from ...planner.step import Rank
from ..plan_options import PlannedMachine, PlannedModel
from ..plan_report import digits, held
from .drawing import Drawing, Numbers, Picture, left_out
from .planned import request_of

WIDTH = 0.86  # of the bars of a strategy
LOOKS: tuple[dict[str, Any], ...] = (
    *({"facecolor": fill, "edgecolor": INK} for fill in FILLS),
    {"facecolor": "none", "edgecolor": INK, "hatch": "////"},
)  # of KINDS
FILL = dict(zip(KINDS, FILLS, strict=False))  # kind -> fill


def holds(setup: Setup) -> list[Numbers]:
    """Return the peak bytes by kind, and in total, of one rank for each place in a pipeline, with the largest share."""
    ranks = [Rank(setup, (0, pp, 0)).update() for pp in range(setup.pp)]
    return [{"rank": rank.number, "pp": rank.place[1], **rank.memory.peak} for rank in ranks]


def data_parallel(request: Request, tp: int, recompute: int) -> Iterator[tuple[str, Setup]]:
    """Yield (name, setup) of data parallel and of the three stages of ZeRO."""
    dp = request.ranks // tp
    for zero in range(4 if dp > 1 else 1):
        name = f"ZeRO-{zero}" if zero else "data\nparallel"
        yield name, setup(request, (dp, 1, tp), 1, Strategy(zero, recompute=recompute))


def pipelines(request: Request, pp: int, tp: int, micros: int, recompute: int) -> Iterator[tuple[str, Setup | str]]:
    """Yield (name, setup) of each pipeline schedule, or why it cannot run."""
    for name in SCHEDULES:
        strategy = Strategy(recompute=recompute, schedule=name)
        try:
            yield name, setup(request, (request.ranks // (pp * tp), pp, tp), micros, strategy)
        except UserError as error:
            yield name, str(error)


def setup(request: Request, axes: tuple[int, int, int], micros: int, strategy: Strategy) -> Setup:
    """Return the setup of a strategy. Raise UserError if it cannot run."""
    stages, units = layout_of(strategy.schedule, axes[1], strategy.v).stages, request.sizes.units
    if stages > units:
        raise UserError(f"{stages} stages, but the model has {units} units")
    found = setup_for(request, axes, request.precisions[0], micros, strategy)
    found.strategy.check_on(Axes(found), micros)  # type: ignore[arg-type]
    return found


def draw(numbers: Numbers, axes: Any) -> None:
    """Draw a group of bars for each strategy on matplotlib axes, a bar for each place in a pipeline."""
    unit, name = unit_of(numbers)
    most = max(bar["total"] for one in numbers["strategies"] for bar in one["bars"])
    for at, one in enumerate(numbers["strategies"]):
        width = WIDTH / len(one["bars"])
        for i, bar in enumerate(one["bars"]):
            x, below = at - WIDTH / 2 + (i + 0.5) * width, 0.0
            for kind, look in zip(KINDS, LOOKS, strict=True):
                axes.bar(x, bar[kind] / unit, width, below, **look)
                below += bar[kind] / unit
            ends = x - width / 2, x + width / 2
            axes.plot(ends, [bar["total"] / unit] * 2, "-", color=INK, linewidth=2.2)
    for kind, look in zip(KINDS, LOOKS, strict=True):
        axes.fill_between([], [], label=kind, **look)
    axes.plot([], [], "-", color=INK, linewidth=2.2, label="all together, at most")
    if numbers["limit"] < 2 * most:
        axes.axhline(numbers["limit"] / unit, color=INK, linestyle="--", linewidth=1)
        axes.text(-0.5, numbers["limit"] / unit, "memory of a rank", va="bottom", fontsize=8)
    names = [f"{one['name']}" for one in numbers["strategies"]]
    axes.set(ylabel=f"held by a rank, {name}", xticks=range(len(names)))
    axes.set_xlabel(
        "in a pipeline: a bar for each rank, the one with the first stage on the left" * (numbers["mesh"]["pp"] > 1)
    )
    axes.set_xticklabels(names, fontsize=8 if len(names) < 10 else 7)
    axes.tick_params(axis="x", length=0)
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=6, handlelength=1.6, columnspacing=1.2)


def text(numbers: Numbers, missing: Mapping[str, str]) -> str:
    """Return a table with a row for each bar. missing: schedule -> why it is left out."""
    unit, name = unit_of(numbers)
    heads = ("param.", "grad.", "optim.", "activ.", "buffers", "total")
    lines = [f"{f'at most, {name}':<22}" + "".join(f"{head:>9}" for head in heads)]
    for one in numbers["strategies"]:
        for bar in one["bars"]:
            what = one["name"].replace("\n", " ") + f", rank {bar['pp']}" * (len(one["bars"]) > 1)
            lines.append(f"{what:<22}" + "".join(f"{digits(bar[kind] / unit):>9}" for kind in (*KINDS, "total")))
    mesh = " x ".join(f"{axis} {n}" for axis, n in numbers["mesh"].items())
    pipelines = ["", f"{mesh} in the pipelines, with {numbers['micro_batches']} micro-batches"]
    lines += pipelines * (numbers["mesh"]["pp"] > 1)
    return "\n".join([*lines, f"a rank has {held(numbers['limit'])}", *left_out(missing)])


def unit_of(numbers: Numbers) -> tuple[int, str]:
    """Return the unit that suits the largest bar, in bytes, and its name."""
    most = max(bar["total"] for one in numbers["strategies"] for bar in one["bars"])
    return (2**30, "GiB") if most >= 2**30 else (2**20, "MiB")


@dataclass(frozen=True)
class MemoryOf(Picture):
    """Draw what a rank holds under data parallel, ZeRO and pipelines, by formulas; takes plan's model and machine."""

    name = "memory"

    model: PlannedModel = field(default_factory=lambda: PlannedModel("minitrain-20m"))
    machine: PlannedMachine = field(default_factory=PlannedMachine)
    pp: int | None = None
    """Ranks of a pipeline. None: as many as there are ranks, but at most 4."""
    tp: int = 1
    """Ranks that divide every matrix, in all strategies."""
    accumulate: int | None = None
    """Micro-batches of the pipelines. None: twice as many as ranks of a pipeline."""
    recompute: int = 0
    """1: recompute every unit in backward. 0: keep all activations."""

    def drawing(self) -> Drawing:
        """Return the bars. Raise UserError for invalid options, or a mesh that the model does not fit."""
        request = request_of(self.model, self.machine)
        dp, pp, micros = self.pipeline(request)
        for mesh in ((dp * pp, 1, self.tp), (dp, pp, self.tp)):
            if why := impossible(request, *mesh):
                raise UserError(why)
        found: list[tuple[str, Setup | str]] = [*data_parallel(request, self.tp, self.recompute)]
        if pp > 1:
            found += pipelines(request, pp, self.tp, micros, self.recompute)
        missing = {name: why for name, why in found if isinstance(why, str)}
        numbers = {
            "model": self.model.model, "mesh": {"dp": dp, "pp": pp, "tp": self.tp}, "micro_batches": micros,
            "limit": request.memory,
            "strategies": [{"name": name, "bars": holds(one)} for name, one in found if isinstance(one, Setup)],
        }  # fmt: skip
        return Drawing(numbers, partial(draw, numbers), text(numbers, missing), height=3.4)

    def pipeline(self, request: Request) -> tuple[int, int, int]:
        """Return (dp, stages, micro-batches) of the pipelines. Raise UserError unless they divide the ranks."""
        for name, value, least, most in (("tp", self.tp, 1, 65536), ("recompute", self.recompute, 0, 1)):
            check_whole(f"--{name}", value, least, most)
        n, most = request.ranks, min(4, request.sizes.units)
        fits = [p for p in range(1, most + 1) if n % (self.tp * p) == 0]
        pp = max(fits, default=1) if self.pp is None else self.pp
        check_whole("--pp", pp, 1)
        if n % (pp * self.tp):
            raise UserError(f"--pp {pp} x --tp {self.tp} does not divide the {n} ranks; give other --ranks")
        dp = n // (pp * self.tp)
        per_rank = max(1, request.batch // dp)
        micros = min(2 * pp, per_rank) if self.accumulate is None else self.accumulate
        check_whole("--accumulate", micros, 1, per_rank)
        return dp, pp, micros
