"""All learning-rate schedules on one budget of updates, each after the same warm-up (lr_schedules.py)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from ...errors import UserError, check_number, check_whole
from ...observe.draw import chart
from ...observe.palette import INK, LINES
from ..compare_schedules import SHOWN, schedule_options
from ..options import LearningRates
from .drawing import Drawing, Numbers, Picture

NAMES: tuple[LearningRates, ...] = get_args(LearningRates)
COLUMNS = 3
STAIRS = 10  # inverse-time: the rate falls this often


def rates(updates: int, peak: float) -> Numbers:
    """Return the rate of every schedule at each update."""
    every = max(1, updates // STAIRS)
    options = {name: schedule_options(name, peak, updates, every) for name in NAMES}
    curves = {name: [o.schedule()(t) for t in range(updates)] for name, o in options.items()}
    return {"updates": updates, "peak": peak, "warmup": options[NAMES[0]].warm_updates(), "rates": curves}


def draw(numbers: Numbers, panels: Any) -> None:
    """Draw each schedule on matplotlib axes of its own; a line ends the warm-up."""
    for axes, (name, curve) in zip(panels.flat, numbers["rates"].items(), strict=False):
        axes.plot(curve, color=LINES[0], linestyle="-")
        if name != "one-cycle":  # which has a warm-up of its own
            axes.axvline(numbers["warmup"], color=INK, linewidth=0.8, linestyle=":")
        axes.set_title(name, fontsize=9)
        axes.set(ylim=(0, 1.08 * numbers["peak"]), xlabel="update", ylabel="learning rate")
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        axes.label_outer()
    for axes in panels.flat[len(numbers["rates"]) :]:
        axes.set_axis_off()
    first = panels.flat[0]
    first.text(numbers["warmup"], 0.06 * numbers["peak"], " end of warm-up", fontsize=7, color=INK)


def text(numbers: Numbers) -> str:
    """Return a chart of some and a table of all."""

    def rows() -> Iterator[str]:
        yield f"{'':<18}{'first':>10}{'highest':>10}{'middle':>10}{'last':>10}{'mean':>10}"
        for name, curve in numbers["rates"].items():
            mean = math.fsum(curve) / len(curve)
            few = (curve[0], max(curve), curve[len(curve) // 2], curve[-1], mean)
            yield f"{name:<18}" + "".join(f"{rate:>10.2e}" for rate in few)

    shown = {name: numbers["rates"][name] for name in SHOWN}
    peak = numbers["peak"]
    relative = {name: [rate / peak for rate in curve] for name, curve in shown.items()}
    return "\n".join([chart(relative, f"learning rate / {peak:g}", "update"), "", *rows()])


@dataclass(frozen=True)
class Rates(Picture):
    """Draw all learning-rate schedules on one budget of updates, a tenth of which is warm-up."""

    name = "rates"

    steps: int = 1000
    """Number of updates."""
    lr: float = 3e-3
    """Peak learning rate."""

    def drawing(self) -> Drawing:
        """Return the schedules. Raise UserError for fewer than 10 updates, or a rate that is not above 0."""
        check_whole("--steps", self.steps, 10)
        check_number("--lr", self.lr, "above 0")
        if not math.isfinite(self.lr):
            raise UserError(f"--lr is {self.lr}; it must be finite")
        numbers = rates(self.steps, self.lr)
        rows = -(-len(NAMES) // COLUMNS)
        return Drawing(numbers, partial(draw, numbers), text(numbers), rows, COLUMNS, height=1.35 * rows + 0.3)
