"""All strategies that `plan` finds, as points: time of an update against the memory of a rank.

Those for which no other is both faster and smaller form the front at the lower left: a choice is a point on it.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ...errors import UserError
from ...observe.palette import INK, LINES
from ...planner.estimate import Estimate
from ...planner.search import Request, search
from ...planner.setup import Setup
from ..plan import watched
from ..plan_options import PlannedMachine, PlannedModel, PlannedStrategy
from ..plan_report import held, order, seconds, words
from .drawing import Drawing, Numbers, Picture
from .planned import request_of

MARKS = {"one rank": ".", "dp": "o", "pp": "s", "tp": "^", "dp pp": "D", "dp tp": "v", "pp tp": "P", "dp pp tp": "*"}


def points(request: Request) -> list[Estimate]:
    """Return the estimates of all strategies that were followed, the fastest first; those that do not fit, too.

    Above `search.THOROUGH` ranks, only those that fit. What `plan` does not follow has no time.
    """
    every = replace(request, memory=math.inf) if request.thorough else request
    found = [one for one in watched(search(every)) if isinstance(one, Estimate)]
    return sorted(found, key=order)


def kind(setup: Setup) -> str:
    """Return the axes of the mesh that divide something."""
    axes = {"dp": setup.dp, "pp": setup.pp, "tp": setup.tp}
    return " ".join(axis for axis, n in axes.items() if n > 1) or "one rank"


def front(rows: Sequence[Numbers]) -> list[Numbers]:
    """Return the rows for which no other is both faster and smaller, the fastest first."""
    kept: list[Numbers] = []
    for row in sorted(rows, key=lambda row: (row["seconds"], row["bytes"])):
        if not kept or row["bytes"] < kept[-1]["bytes"]:
            kept.append(row)
    return kept


def numbers_of(found: Sequence[Estimate], request: Request) -> Numbers:
    """Return the points as plain values. chosen: the fastest that fits, as `plan` chooses."""
    rows = [
        {"kind": kind(e.setup), "strategy": words(e.setup), "micro_batches": e.setup.accumulate,
         "seconds": float(e.time), "bytes": float(e.memory["total"]),
         "fits": float(e.memory["total"]) <= request.memory}
        for e in found
    ]  # fmt: skip
    return {"limit": request.memory, "chosen": next((row for row in rows if row["fits"]), None), "points": rows}


def draw(numbers: Numbers, axes: Any) -> None:
    """Draw the points on matplotlib axes, the front as a line of steps, and the limit of memory."""
    rows, limit = numbers["points"], numbers["limit"]
    unit, name = (2**30, "GiB") if max(row["bytes"] for row in rows) >= 2**30 else (2**20, "MiB")
    per, time = (1, "s") if min(row["seconds"] for row in rows) >= 1 else (1000, "ms")
    present = [kind for kind in MARKS if any(row["kind"] == kind for row in rows)]
    for i, kind in enumerate(present):
        color = LINES[i % len(LINES)]
        for fits in (True, False):
            few = [row for row in rows if row["kind"] == kind and row["fits"] is fits]
            at = [row["bytes"] / unit for row in few], [row["seconds"] * per for row in few]
            look = {"markersize": 4.5, "fillstyle": "full" if fits else "none", "markeredgewidth": 0.7}
            axes.plot(*at, MARKS[kind], color=color, label=kind if fits else None, **look)
    steps = front(rows)
    at = [row["bytes"] / unit for row in steps], [row["seconds"] * per for row in steps]
    axes.step(*at, color=INK, where="post", linewidth=1, linestyle="-", zorder=0)
    axes.set(xlabel=f"memory of a rank, {name}", ylabel=f"time of an update, {time}")
    plain_scale(axes)
    if min(row["bytes"] for row in rows) < 2 * limit and limit < 3 * max(row["bytes"] for row in rows):
        axes.axvline(limit / unit, color=INK, linestyle="--", linewidth=1)
        axes.text(limit / unit, 0.99, " limit ", transform=axes.get_xaxis_transform(), va="top", ha="right", fontsize=8)
    if chosen := numbers["chosen"]:
        where = (chosen["bytes"] / unit, chosen["seconds"] * per)
        axes.plot(*where, "o", color=INK, fillstyle="none", markersize=11)
        says = f"chosen: {chosen['strategy']}"
        axes.annotate(says, where, (-6, -8), textcoords="offset points", ha="right", va="top", fontsize=8)
    if any(not row["fits"] for row in rows):
        axes.plot([], [], "o", color=INK, fillstyle="none", markersize=4.5, label="too large")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)


def plain_scale(axes: Any) -> None:
    """Use logarithmic axes whose ticks are 1, 2, 5, 10, 20 ..."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(xscale="log", yscale="log")
    axes.margins(y=0.12)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.set_minor_formatter(NullFormatter())


def text(numbers: Numbers, request: Request) -> str:
    """Return the front as a table, and how many strategies there are of each kind."""
    rows = numbers["points"]
    lines = [f"{'memory':>10}{'time':>10}  strategies that no other beats in both; k: micro-batches"]
    for row in front(rows):
        mark = "" if row["fits"] else " (too large)"
        lines.append(
            f"{held(row['bytes']):>10}{seconds(row['seconds']):>10}  {row['strategy']}, k {row['micro_batches']}{mark}"[
                :80
            ]
        )
    counts = Counter(row["kind"] for row in rows if row["fits"])
    lines += ["", f"{counts.total()} strategies fit into {held(request.memory)}, {len(rows) - counts.total()} do not:"]
    lines.append(", ".join(f"{n} {kind}" for kind, n in counts.most_common()) or "none")
    if numbers["chosen"]:
        lines.append(f"chosen: {numbers['chosen']['strategy']}")
    return "\n".join(lines)


@dataclass(frozen=True)
class Landscape(Picture):
    """Draw all strategies that plan finds, as points of memory and time; takes plan's options."""

    name = "landscape"

    model: PlannedModel = field(default_factory=PlannedModel)
    machine: PlannedMachine = field(default_factory=PlannedMachine)
    strategy: PlannedStrategy = field(default_factory=PlannedStrategy)

    def drawing(self) -> Drawing:
        """Return the points. Raise UserError for invalid options, or if there are none."""
        request = request_of(self.model, self.machine, self.strategy)
        found = points(request)
        if not found:
            raise UserError("no strategy fits; python -m minitrain plan, with the same options, tells why")
        numbers = numbers_of(found, request)
        return Drawing(numbers, partial(draw, numbers), text(numbers, request), height=4.0)
