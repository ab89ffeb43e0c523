"""Timelines of pipeline schedules, one above the other on the same time axis.

They are simulated (parallel/pipeline_simulation.py): a forward takes one unit of time, a backward two, the gradients of
inputs and weights one each, all of a p-th of the model; a smaller chunk takes less. Messages are free.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import product
from typing import Any

from ...errors import UserError, check_choice, check_number, check_whole
from ...observe.clock import COLORS, NAMES, Costs, Timeline
from ...observe.palette import INK, TEXT_ON
from ...parallel.pipeline_schedules import SCHEDULES, default_chunks, layout_of
from ...parallel.pipeline_simulation import simulated
from .drawing import Drawing, Numbers, Picture, left_out

LONG = 2  # times the shortest timeline: by default, longer ones are left out
LANE, TITLE = 0.17, 0.34  # inches
WIDTH = 62  # columns of a lane in text


def timeline_of(name: str, p: int, m: int, costs: Sequence[Fraction]) -> Timeline:
    """Return the timeline of a schedule on p ranks with m micro-batches.

    costs: of F, I and W, each of a p-th of the model. Raise UserError if the numbers do not fit the schedule.
    """
    part = part_of(name, p)
    return simulated(name, p, m, costs=Costs(*(cost * part for cost in costs)))


def part_of(name: str, p: int) -> Fraction:
    """Return how much of a p-th of the model a chunk is."""
    return Fraction(p, layout_of(name, p, default_chunks(name)).stages)


def numbers_of(name: str, timeline: Timeline) -> Numbers:
    """Return a timeline as plain values; times in units, activations in flight in chunks of a part of a stage."""
    lanes = [
        [
            {"start": float(s), "end": float(e), "kind": do.kind, "micro": do.micro, "chunk": do.chunk}
            for s, e, do in lane
        ]
        for lane in timeline.lanes
    ]
    idle = timeline.idle
    summary = {"time": float(timeline.makespan), "idle": float(idle), "idle_exactly": str(idle)}
    p = len(lanes)
    chunks = {"chunks": default_chunks(name), "part": float(part_of(name, p))}
    return {"schedule": name, **chunks, **summary, "in_flight": timeline.peaks, "ranks": lanes}


def draw(numbers: Numbers, panels: Any) -> None:
    """Draw a row of matplotlib axes for each schedule, with a lane per rank and a box per instruction."""
    every = numbers["schedules"]
    longest = max(one["time"] for one in every)
    rows = [panels] if len(every) == 1 else list(panels)
    for axes, one in zip(rows, every, strict=True):
        for rank, lane in enumerate(one["ranks"]):
            for kind, chunk in product(COLORS, range(one["chunks"])):
                boxes = [
                    (do["start"], do["end"] - do["start"]) for do in lane if (do["kind"], do["chunk"]) == (kind, chunk)
                ]
                top, high = place(rank, chunk, one["chunks"])
                axes.broken_barh(boxes, (top, high), facecolor=COLORS[kind], edgecolor=INK, linewidth=0.6)
            for do in lane:
                top, high = place(rank, do["chunk"], one["chunks"])
                write_number(axes, top + high / 2, do, longest)
        axes.set(xlim=(0, longest), ylim=(len(one["ranks"]) - 0.4, -0.6), yticks=range(len(one["ranks"])))
        axes.set_yticklabels([f"rank {rank}" for rank in range(len(one["ranks"]))], fontsize=8)
        axes.set_title(title(one), fontsize=8, loc="left", pad=3)
        axes.tick_params(length=0, labelsize=8, labelbottom=axes is rows[-1])
        axes.spines["left"].set_visible(False)
    lower = "   (lower boxes: a rank's second chunk)" * any(one["chunks"] > 1 for one in every)
    rows[-1].set_xlabel(f"time, in forwards of a stage{lower}")
    rows[-1].tick_params(axis="x", length=3)
    key(rows[-1], {do["kind"] for one in every for lane in one["ranks"] for do in lane})


def place(rank: int, chunk: int, chunks: int) -> tuple[float, float]:
    """Return (upper edge, height) of a box in a rank's lane: later chunks are lower."""
    high = 0.9 - 0.25 * chunk / max(1, chunks - 1)
    return rank + 0.45 - high, high


def write_number(axes: Any, y: float, do: Numbers, longest: float) -> None:
    """Write the micro-batch's number into its box, if the box is wide enough."""
    inches = (do["end"] - do["start"]) / longest * 6.2
    digits = len(str(do["micro"]))
    if inches > 0.06 * digits + 0.02:
        color = TEXT_ON[COLORS[do["kind"]]]
        middle = (do["start"] + do["end"]) / 2
        axes.text(middle, y + 0.04, do["micro"], ha="center", va="center", fontsize=6.5, color=color)


def key(axes: Any, kinds: set[str]) -> None:
    """Add a legend of the kinds below the last panel."""
    for kind in (kind for kind in NAMES if kind in kinds):
        axes.fill_between([], [], facecolor=COLORS[kind], edgecolor=INK, label=NAMES[kind])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.55), ncols=4, fontsize=8)


def title(one: Numbers) -> str:
    """Return a schedule's name, its idle fraction and its activations in flight."""
    peaks, part = one["in_flight"], Fraction(one["part"])
    few = f"{peaks[0]}" if len(set(peaks)) == 1 else f"{max(peaks)} to {min(peaks)}"
    what = "" if part == 1 else f", each {part} of a stage's"
    return f"{one['schedule']}: {100 * one['idle']:.0f}% idle; activations of {few} micro-batches in flight{what}"


@dataclass(frozen=True)
class PipelineSchedules(Picture):
    """Draw the timelines of pipeline schedules, simulated, on one time axis."""

    name = "schedules"

    pp: int = 4
    """Ranks of the pipeline."""
    accumulate: int = 8
    """Micro-batches."""
    schedules: tuple[str, ...] = ()
    """Schedules to draw. None given: all that fit --pp and --accumulate, and take at most twice as long as the
    shortest."""
    costs: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Time of a stage's forward, of its gradient of inputs, and of its gradients of weights."""

    def drawing(self) -> Drawing:
        """Return the timelines. Raise UserError for invalid options, or a schedule that they do not fit."""
        for name, value, least in (("--pp", self.pp, 2), ("--accumulate", self.accumulate, 1)):
            check_whole(name, value, least, 64)
        for cost in self.costs:
            check_number("--costs", cost, "above 0")
        found, missing = self.simulated()
        numbers = {
            "ranks": self.pp, "micro_batches": self.accumulate, "costs": dict(zip("FIW", self.costs, strict=True)),
            "schedules": [numbers_of(name, timeline) for name, timeline in found.items()],
        }  # fmt: skip
        rows = len(found)
        height = rows * (LANE * self.pp + TITLE) + 0.6
        return Drawing(numbers, partial(draw, numbers), text(found, missing), rows, height=height)

    def simulated(self) -> tuple[dict[str, Timeline], dict[str, str]]:
        """Return the timelines to draw, and why others are left out. Raise UserError for one that was asked for."""
        found, missing = {}, {}
        costs = [Fraction(cost).limit_denominator(1000) for cost in self.costs]
        for name in self.schedules or SCHEDULES:
            check_choice("--schedules", name, tuple(SCHEDULES))
            try:
                found[name] = timeline_of(name, self.pp, self.accumulate, costs)
            except UserError as error:
                if self.schedules:
                    raise
                missing[name] = str(error)
        shortest = min(timeline.makespan for timeline in found.values())
        for name, timeline in list(found.items()):
            if timeline.makespan > LONG * shortest and not self.schedules:
                missing[name] = f"it takes {timeline.makespan}, over {LONG} times as long as the shortest"
                del found[name]
        return found, missing


def text(found: Mapping[str, Timeline], missing: Mapping[str, str]) -> str:
    """Return the timelines as text. missing: schedule -> why it is left out."""
    lines = ["digits: forward, letters: backward, capitals: gradients of weights, dots: idle"]
    for name, timeline in found.items():
        v = default_chunks(name)
        lines += ["", f"{name}, {v} chunks per rank" if v > 1 else name, timeline.draw()]
        lines.append(f"idle {timeline.idle} of the time; activations in flight {timeline.peaks}")
    return "\n".join([*lines, *left_out(missing)])
