"""What the reduction of gradients adds to an update, over the size of the buckets, by the planner's virtual time.

Every bucket pays the latency of a collective, so in turn with computing, fewer are faster. A communication thread hides
what it reduces during the backward, but a large bucket leaves late, and the last one when nothing is left to compute:
the curve is a U (parallel/overlap.py; Li et al., "PyTorch Distributed", arXiv:2006.15704, sections 3.2 and 5.2). Here a
bucket holds parameters of one unit, so that there are at least two for each block: weights that decay, and the others.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ...errors import UserError, check_whole
from ...observe.draw import chart
from ...observe.palette import LINES
from ...parallel.strategy import Strategy
from ...planner.estimate import estimate
from ...planner.search import Request, impossible, setup_for
from ...planner.step import Rank
from ...train.progress import Progress
from ..plan_options import PlannedMachine, PlannedModel
from ..plan_report import seconds, size
from .drawing import Drawing, Numbers, Picture
from .planned import request_of

MIB = 2**20
HOW = {"bucketed": "reduced in turn with the backward", "overlap": "reduced during the backward, by a thread"}


def sizes(request: Request, points: int) -> list[float]:
    """Return bucket sizes in MiB, of equal ratio, from the smallest parameter up to all parameters."""
    s = request.sizes
    stored = setup_for(request, (1, 1, 1), request.precisions[0], 1, Strategy()).stored
    low = min(math.prod(w.shape) for unit in range(s.units) for w in s.weights(unit)) * stored / MIB
    high = 1.05 * s.parameters * stored / MIB
    return [low * (high / low) ** (i / (points - 1)) for i in range(points)]


def times(request: Request, bucket_mb: float) -> Numbers:
    """Return the seconds of an update with buckets of `bucket_mb` MiB, and their number, under data parallel."""
    found: Numbers = {"bucket_mb": bucket_mb}
    for reduce in ("overlap", "bucketed"):
        strategy = Strategy(reduce=reduce, bucket_mb=bucket_mb)
        setup = setup_for(replace(request, overlap=False), (request.ranks, 1, 1), request.precisions[0], 1, strategy)
        cost = estimate(setup, request.machine)
        found |= {reduce: float(cost.time), "computing": float(cost.computing)}
    return found | {"buckets": len(Rank(setup, (0, 0, 0)).buckets)}


def draw(numbers: Numbers, panels: Any) -> None:
    """Draw what the reduction adds to an update on two matplotlib axes: in turn with computing, and meanwhile."""
    rows = numbers["sizes"]
    at = [row["bucket_mb"] for row in rows]
    for axes, (how, says) in zip(panels, HOW.items(), strict=True):
        added = [1e3 * (row[how] - row["computing"]) for row in rows]
        axes.plot(at, added, linestyle="-", color=LINES[0])
        axes.set(xscale="log", ylim=(0, 1.3 * max(added)), ylabel="time added, ms")
        axes.text(0.5, 0.97, says, transform=axes.transAxes, ha="center", va="top")
        axes.tick_params(labelbottom=axes is panels[-1])
    best = min(rows, key=lambda row: row["overlap"])
    where = best["bucket_mb"], 1e3 * (best["overlap"] - best["computing"])
    panels[-1].plot(*where, "o", color=LINES[0], markersize=5)
    says = f"{best['buckets']} buckets"
    panels[-1].annotate(says, where, (0, -5), textcoords="offset points", ha="center", va="top", fontsize=8)
    panels[-1].set_xlabel("size of a bucket, MiB")
    top = panels[0].secondary_xaxis("top")
    ticks = rows[:: max(1, len(rows) // 8)]
    top.set_xticks([row["bucket_mb"] for row in ticks], [row["buckets"] for row in ticks], fontsize=8)
    top.minorticks_off()
    top.tick_params(length=3)
    top.set_xlabel("number of buckets", fontsize=8)


def text(numbers: Numbers) -> str:
    """Return a chart and a table."""
    rows = numbers["sizes"]
    curves = {"during the backward": [1e3 * (row["overlap"] - row["computing"]) for row in rows]}

    def table() -> Iterator[str]:
        yield f"{'bucket, MiB':>12}{'buckets':>9}{'adds in turn':>15}{'meanwhile':>12}{'to computing of':>18}"
        for row in rows[:: max(1, len(rows) // 10)]:
            few = row["bucketed"] - row["computing"], row["overlap"] - row["computing"], row["computing"]
            cells = "".join(f"{seconds(time):>{wide}}" for time, wide in zip(few, (15, 12, 18), strict=True))
            yield f"{row['bucket_mb']:>12.3g}{row['buckets']:>9,}{cells}"

    best = min(rows, key=lambda row: row["overlap"])
    says = f"fastest: {best['buckets']} buckets of {size(best['bucket_mb'] * MIB)}, {seconds(best['overlap'])}"
    return "\n".join([chart(curves, "ms added", "size of a bucket (logarithmic),"), "", *table(), "", says])


@dataclass(frozen=True)
class Buckets(Picture):
    """Draw the time of an update over the size of its buckets, by formulas; takes plan's model and machine."""

    name = "buckets"

    model: PlannedModel = field(default_factory=PlannedModel)
    machine: PlannedMachine = field(default_factory=PlannedMachine)
    points: int = 33
    """Sizes to compute."""

    def drawing(self) -> Drawing:
        """Return the curves. Raise UserError for invalid options."""
        check_whole("--points", self.points, 2, 1000)
        request = request_of(self.model, self.machine)
        if why := impossible(request, request.ranks, 1, 1):
            raise UserError(why)
        if request.ranks == 1:
            raise UserError("--ranks is 1: one rank reduces nothing; give 2 or more")
        every = sizes(request, self.points)
        rows = [times(request, mb) for mb in Progress().watch(every, len(every), what="sizes")]
        numbers = {"model": self.model.model, "ranks": request.ranks, "sizes": rows}
        return Drawing(numbers, partial(draw, numbers), text(numbers), rows=2, height=4.2)
