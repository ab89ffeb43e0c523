"""Virtual time in exact fractions: measures the bubble of a pipeline exactly, on any machine.

    start of an instruction = max(end of the one before it on this rank,
                                  sent + alpha + beta bytes, for the message that it needs)
    end                     = start + its declared cost

Every rank has a clock, and every message carries its send time. Sending is free for the sender, and links never
saturate. The run computes real numbers; only the time is virtual.

The only pipeline concepts here are the four instruction kinds: F forward, I input gradient, W weight gradients, and B
backward, which is I and W in one. `simulate` in parallel/pipeline_simulation.py does the same without MPI.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .palette import DARK_THEME, FILLS, INK, TEXT_ON

if TYPE_CHECKING:
    from ..comm.communicator import Communicator

TIME = ("clock", "time")
Number = int | Fraction


class Instruction(Protocol):
    """A unit of work: kind F, B, I or W, on one micro-batch, in one of the rank's model chunks."""

    @property
    def kind(self) -> str:
        """F, B, I or W."""

    @property
    def micro(self) -> int:
        """Number of the micro-batch."""

    @property
    def chunk(self) -> int:
        """Number of the model chunk on this rank."""


Lane = list[tuple[Fraction, Fraction, Instruction]]  # (start, end, instruction) of one rank's work


@dataclass(frozen=True)
class Costs:
    """Time units for the forward, input gradient and weight gradients of one chunk; B = I + W.

    A message of n bytes takes alpha + beta n.
    """

    F: Number = 1
    I: Number = 1
    W: Number = 1
    alpha: Number = 0
    beta: Number = 0

    @property
    def B(self) -> Number:
        """The time of a full backward."""
        return self.I + self.W

    def message(self, nbytes: int) -> Number:
        """Return alpha + beta nbytes."""
        return self.alpha + self.beta * nbytes


@dataclass
class Clock:
    """One rank's virtual time, and its lane: what it did and when."""

    costs: Costs = field(default_factory=Costs)
    time: Fraction = Fraction(0)
    lane: Lane = field(default_factory=list)

    def receive(self, sent: Fraction, nbytes: int = 0) -> None:
        """Advance to the arrival of a message sent at time `sent`, if that is later than now."""
        self.time = max(self.time, sent + self.costs.message(nbytes))

    def run(self, what: Instruction) -> None:
        """Advance by the cost of the instruction and record it in the lane."""
        end = self.time + getattr(self.costs, what.kind)
        self.lane.append((self.time, end, what))
        self.time = end


class Stamps:
    """An Observer that runs a clock and sends a timestamp along with every message.

    clock: this rank's. group: the ranks of its pipeline, all of which must construct this together. The timestamps
    travel on a duplicate of the group.
    """

    def __init__(self, clock: Clock, group: "Communicator") -> None:
        self.clock, self.times = clock, group.duplicate()

    def begins(self, do: Instruction) -> None:
        """Advance the clock by the cost of the instruction."""
        self.clock.run(do)

    def sends(self, to: int, number: int) -> None:
        """Send the current time. A message this small is buffered, so waiting for it does not block."""
        time = np.array(self.clock.time.as_integer_ratio())
        self.times.send(time, to, TIME, number).wait()

    def received(self, source: int, number: int, nbytes: int) -> None:
        """Advance the clock to the arrival of the message."""
        time = np.empty(2, np.int64)
        self.times.receive(time, source, TIME, number)
        self.clock.receive(Fraction(*time.tolist()), nbytes)


def peak_in_flight(instructions: Iterable[Instruction]) -> int:
    """Return the peak number of (micro-batch, chunk) pairs whose activations one rank keeps: from F to B, or to W."""
    most = now = 0
    for what in instructions:
        now += {"F": 1, "B": -1, "I": 0, "W": -1}[what.kind]
        most = max(most, now)
    return most


def symbol(what: Instruction) -> str:
    """Return a digit for F, a lower-case letter for B and I, a capital for W. They repeat after ten micro-batches."""
    return {"F": "0123456789", "B": "abcdefghij", "I": "abcdefghij", "W": "ABCDEFGHIJ"}[what.kind][what.micro % 10]


@dataclass(frozen=True)
class Timeline:
    """The lanes of all ranks, with summary statistics."""

    lanes: Sequence[Lane]

    @property
    def makespan(self) -> Fraction:
        """The end of the last instruction."""
        return max((end for lane in self.lanes for _, end, _ in lane), default=Fraction(0))

    @property
    def busy(self) -> Fraction:
        """The total time spent in instructions, summed over ranks."""
        return sum((end - start for lane in self.lanes for start, end, _ in lane), Fraction(0))

    @property
    def idle(self) -> Fraction:
        """Idle time over total time, summed over ranks: GPipe's definition of the bubble (arXiv:1811.06965)."""
        return 1 - self.busy / (len(self.lanes) * self.makespan)

    @property
    def overhead(self) -> Fraction:
        """Idle time over busy time: Megatron's definition of the bubble (arXiv:2104.04473, section 2.2.1)."""
        return len(self.lanes) * self.makespan / self.busy - 1

    @property
    def stalls(self) -> list[Fraction]:
        """The idle time of each rank between its first and its last instruction: the bubble of arXiv:2401.10241."""
        spans = [lane[-1][1] - lane[0][0] if lane else Fraction(0) for lane in self.lanes]
        return [span - sum(end - start for start, end, _ in lane) for span, lane in zip(spans, self.lanes, strict=True)]

    @property
    def peaks(self) -> list[int]:
        """The peak number of activations in flight on each rank."""
        return [peak_in_flight(what for _, _, what in lane) for lane in self.lanes]

    def draw(self, width: int = 80, symbol: Callable[[Instruction], str] = symbol) -> str:
        """Return a text picture with one row per rank and, if it fits into `width`, one column per unit of time.

        The unit is the largest that divides all times. If the picture would be too wide, a column spans several units
        and shows what runs at its middle, and a note below says so.
        """
        names = [f"rank {r} " for r in range(len(self.lanes))]
        margin = max(map(len, names))
        unit = common_measure(time for lane in self.lanes for start, end, _ in lane for time in (start, end))
        scale = max(1, math.ceil(self.makespan / unit / (width - margin)))
        columns = math.ceil(self.makespan / (unit * scale))
        rows = [sampled(lane, unit * scale, columns, symbol) for lane in self.lanes]
        note = [f"(a column is {unit * scale}; shorter instructions may be missing)"] if scale > 1 else []
        return "\n".join([f"{name:<{margin}}{row}" for name, row in zip(names, rows, strict=True)] + note)

    def svg(self, width: int = 760) -> str:
        """Return an SVG with a row per rank and a box per instruction, labeled by micro-batch and colored by kind.

        The last row is the legend.
        """
        left, row = 52, 26
        scale = (width - left - 1) / float(self.makespan or 1)
        foot = row * len(self.lanes)
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{foot + row}" '
            'font-family="sans-serif" font-size="11">',
            f"<style>{DARK_THEME}</style>",
        ]
        for r, lane in enumerate(self.lanes):
            lines.append(words(0, row * r, f"rank {r}"))
            for start, end, what in lane:
                x, w = left + float(start) * scale, float(end - start) * scale
                lines += [box(x, row * r, w, what.kind), words(x + w / 2, row * r, what.micro, what.kind, "middle")]
        there = {what.kind for lane in self.lanes for _, _, what in lane}
        for i, kind in enumerate(kind for kind in NAMES if kind in there):
            lines += [box(left + 140 * i, foot, 20, kind), words(left + 140 * i + 26, foot, NAMES[kind])]
        lines.append(words(width - 1, foot, f"virtual time: 0 to {self.makespan}", anchor="end"))
        return "\n".join([*lines, "</svg>", ""])


NAMES = {"F": "forward", "B": "backward", "I": "gradient of inputs", "W": "gradient of weights"}
COLORS = dict(zip("FIBW", FILLS, strict=True))


def box(x: float, y: float, width: float, kind: str) -> str:
    """Return an SVG rectangle in the row at y, in the color of this kind."""
    shape = f'x="{x:.1f}" y="{y + 1}" width="{width:.1f}" height="22"'
    return f'<rect {shape} style="fill: {COLORS[kind]}; stroke: {INK}"/>'


def words(x: float, y: float, text: object, kind: str | None = None, anchor: str = "start") -> str:
    """Return an SVG text in the row at y, on the page or on a box of this kind."""
    color = TEXT_ON[COLORS[kind]] if kind else INK
    return f'<text x="{x:.1f}" y="{y + 16}" text-anchor="{anchor}" style="fill: {color}">{text}</text>'


def common_measure(times: Iterable[Fraction]) -> Fraction:
    """Return the largest fraction that divides all times; 1 if all are 0."""
    times = list(times)
    below = math.lcm(*(time.denominator for time in times))
    return Fraction(math.gcd(*(int(time * below) for time in times)) or 1, below)


def sampled(lane: Lane, column: Fraction, columns: int, symbol: Callable[[Instruction], str]) -> str:
    """Return one character per column: the symbol of what runs at its middle, or a dot."""
    row = ["."] * columns
    for start, end, what in lane:
        first, stop = (math.ceil(time / column - Fraction(1, 2)) for time in (start, end))
        row[first:stop] = symbol(what) * (stop - first)
    return "".join(row)
