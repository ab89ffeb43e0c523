"""Virtual time, in exact fractions: the bubble of a pipeline to the last digit, on any machine.

    start of an instruction = max(end of the one before it on this rank,
                                  sent + alpha + beta bytes, for the message that it needs)
    end                     = start + its declared cost

Every rank carries a clock. A message carries the time at which it was sent; sending costs the sender nothing, and
communication lanes never fill up. The numbers that a run computes are the real ones: only the time is declared.

Nothing here knows about pipelines but the four letters: F forward, B backward, which is I (the gradient of the input)
and W (the gradients of the weights) in one. Simulated without MPI: `simulate` in parallel/pipeline_simulation.py.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from ..comm.communicator import Communicator

TIME = ("clock", "time")
Number = int | Fraction


class Instruction(Protocol):
    """What takes time: of one micro-batch, in one of the rank's chunks of the model."""

    @property
    def kind(self) -> str: ...
    @property
    def micro(self) -> int: ...
    @property
    def chunk(self) -> int: ...


Lane = list[tuple[Fraction, Fraction, Instruction]]  # start, end, what: one rank's work


@dataclass(frozen=True)
class Costs:
    """Units of time for a forward, an input gradient and the weight gradients of one chunk; B = I + W.

    A message of n bytes takes alpha + beta n.
    """

    F: Number = 1
    I: Number = 1
    W: Number = 1
    alpha: Number = 0
    beta: Number = 0

    @property
    def B(self) -> Number:
        return self.I + self.W

    def message(self, nbytes: int) -> Number:
        return self.alpha + self.beta * nbytes


@dataclass
class Clock:
    """One rank's time, and its lane: what it did and when."""

    costs: Costs = field(default_factory=Costs)
    time: Fraction = Fraction(0)
    lane: Lane = field(default_factory=list)

    def receive(self, sent: Fraction, nbytes: int = 0) -> None:
        """Waits for a message that left its sender at `sent`, unless it is there already."""
        self.time = max(self.time, sent + self.costs.message(nbytes))

    def run(self, what: Instruction) -> None:
        """Spends the cost of the instruction."""
        end = self.time + getattr(self.costs, what.kind)
        self.lane.append((self.time, end, what))
        self.time = end


class Stamps:
    """What a pipeline tells (an Observer, parallel/pipeline.py), as virtual time: beside every message goes the time
    at which it left.

    clock: the rank's. group: the ranks of its pipeline, which all make this together; the times travel on a
    communicator of their own.
    """

    def __init__(self, clock: Clock, group: "Communicator") -> None:
        self.clock, self.times = clock, group.duplicate()

    def begins(self, do: Instruction) -> None:
        """It takes its declared time."""
        self.clock.run(do)

    def sends(self, to: int, number: int) -> None:
        """The time is so small a message that it is copied aside."""
        time = np.array(self.clock.time.as_integer_ratio())
        self.times.send(time, to, TIME, number).wait()

    def received(self, source: int, number: int, nbytes: int) -> None:
        """Wait, in virtual time, for the message."""
        time = np.empty(2, np.int64)
        self.times.receive(time, source, TIME, number)
        self.clock.receive(Fraction(*time.tolist()), nbytes)


def peak_in_flight(instructions: Iterable[Instruction]) -> int:
    """The most (micro-batch, chunk) pairs of one rank whose activations are kept: from F to B, or to W."""
    most = now = 0
    for what in instructions:
        now += {"F": 1, "B": -1, "I": 0, "W": -1}[what.kind]
        most = max(most, now)
    return most


def symbol(what: Instruction) -> str:
    """A digit for F, a letter for B and I, a capital for W; after ten micro-batches they begin anew."""
    return {"F": "0123456789", "B": "abcdefghij", "I": "abcdefghij", "W": "ABCDEFGHIJ"}[what.kind][what.micro % 10]


@dataclass(frozen=True)
class Timeline:
    """The lanes of all ranks, and what they say."""

    lanes: Sequence[Lane]

    @property
    def makespan(self) -> Fraction:
        return max((end for lane in self.lanes for _, end, _ in lane), default=Fraction(0))

    @property
    def busy(self) -> Fraction:
        """Added up over the ranks."""
        return sum((end - start for lane in self.lanes for start, end, _ in lane), Fraction(0))

    @property
    def idle(self) -> Fraction:
        """Idle time over total time, of all ranks together: GPipe's definition of the bubble."""
        return 1 - self.busy / (len(self.lanes) * self.makespan)

    @property
    def overhead(self) -> Fraction:
        """Idle time over busy time: Megatron's definition."""
        return len(self.lanes) * self.makespan / self.busy - 1

    @property
    def peaks(self) -> list[int]:
        """Activations in flight at the worst moment of each rank."""
        return [peak_in_flight(what for _, _, what in lane) for lane in self.lanes]

    def draw(self, width: int = 80, symbol: Callable[[Instruction], str] = symbol) -> str:
        """One row a rank and, where that fits into the width, one column for each unit of time.

        The unit is the largest that divides all times; a picture that is too wide gets a multiple of it, shows what
        runs in the middle of each column, and says so in a last line.
        """
        names = [f"rank {r} " for r in range(len(self.lanes))]
        margin = max(map(len, names))
        unit = common_measure(time for lane in self.lanes for start, end, _ in lane for time in (start, end))
        scale = max(1, math.ceil(self.makespan / unit / (width - margin)))
        columns = math.ceil(self.makespan / (unit * scale))
        rows = [sampled(lane, unit * scale, columns, symbol) for lane in self.lanes]
        note = [f"(a column is {unit * scale}; what is shorter may be missing)"] if scale > 1 else []
        return "\n".join([f"{name:<{margin}}{row}" for name, row in zip(names, rows, strict=True)] + note)

    def svg(self, width: int = 760) -> str:
        """The same as a picture: a row a rank, a box an instruction with its micro-batch, in a colour for each kind."""
        left, height, gap = 52, 22, 4
        scale = (width - left) / float(self.makespan or 1)
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{len(self.lanes) * (height + gap)}" '
            'font-family="sans-serif" font-size="11">',
            '<rect width="100%" height="100%" fill="white"/>',
        ]
        for r, lane in enumerate(self.lanes):
            y = r * (height + gap)
            lines.append(f'<text x="0" y="{y + 15}">rank {r}</text>')
            for start, end, what in lane:
                x, w = left + float(start) * scale, float(end - start) * scale
                box = f'x="{x:.1f}" y="{y}" width="{w:.1f}" height="{height}"'
                lines.append(f'<rect {box} fill="{COLOURS[what.kind]}" stroke="white"/>')
                lines.append(f'<text x="{x + w / 2:.1f}" y="{y + 15}" text-anchor="middle">{what.micro}</text>')
        return "\n".join([*lines, "</svg>", ""])


COLOURS = {"F": "#9ecae1", "B": "#fdae6b", "I": "#fdd0a2", "W": "#c7e9c0"}


def common_measure(times: Iterable[Fraction]) -> Fraction:
    """The largest fraction of which all of these are multiples; 1 if there is nothing but 0."""
    times = list(times)
    below = math.lcm(*(time.denominator for time in times))
    return Fraction(math.gcd(*(int(time * below) for time in times)) or 1, below)


def sampled(lane: Lane, column: Fraction, columns: int, symbol: Callable[[Instruction], str]) -> str:
    """What runs in the middle of each column, dots where nothing does."""
    row = ["."] * columns
    for start, end, what in lane:
        first, stop = (math.ceil(time / column - Fraction(1, 2)) for time in (start, end))
        row[first:stop] = symbol(what) * (stop - first)
    return "".join(row)
