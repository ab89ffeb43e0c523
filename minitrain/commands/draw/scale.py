"""The loss scale of a run in fp16, and the batches that overflowed and were skipped, from its log.

The scale halves when a gradient overflows, and doubles after so many good updates: see precision/scaler.py.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from ...errors import UserError
from ...observe.draw import chart
from ...observe.palette import INK, LINES
from .drawing import Drawing, Numbers, Picture
from .run_log import rows_of

MOST = 15  # skipped batches to list


def scales(run: Path) -> Numbers:
    """Return the scale of each batch of a run, and the numbers of the skipped ones, from 0.

    Raise UserError for a run without a loss scale.
    """
    batches = [row for row in rows_of(run) if "loss" in row]
    if "scale" not in batches[0]:
        raise UserError(f"{run} has no loss scale; train with one: python -m minitrain train --precision fp16")
    skipped = [number for number, row in enumerate(batches) if row.get("skipped")]
    return {"folder": str(run), "scale": [row["scale"] for row in batches], "skipped": skipped}


def draw(numbers: Numbers, axes: Any) -> None:
    """Draw the scale on matplotlib axes, with a cross for each skipped batch."""
    scale, skipped = numbers["scale"], numbers["skipped"]
    axes.step(range(len(scale)), scale, where="post", color=LINES[0])
    axes.plot(skipped, [scale[number] for number in skipped], "x", color=INK, label=counted(numbers))
    axes.set_yscale("log", base=2)
    axes.set(xlabel="batch", ylabel="loss scale")
    axes.set_ylim(min(scale) / 2, max(scale) * 2)
    axes.legend()


def counted(numbers: Numbers) -> str:
    """Return how many batches were skipped."""
    return f"skipped: {len(numbers['skipped'])} of {len(numbers['scale']):,} batches"


def text(numbers: Numbers) -> str:
    """Return a chart, and the skipped batches."""
    skipped = numbers["skipped"]
    some = ", ".join(map(str, skipped[:MOST])) + (", ..." if len(skipped) > MOST else "")
    lines = [chart({"scale": numbers["scale"]}, "loss scale", "batch", log=True), "", counted(numbers)]
    return "\n".join(lines + [f"their numbers: {some}"] * bool(skipped))


@dataclass(frozen=True)
class Scale(Picture):
    """Draw the loss scale of a run in fp16, and the batches that it skipped, from its log."""

    name = "scale"

    of: tyro.conf.Positional[Path] = Path("build/run")
    """Folder of the run."""

    def drawing(self) -> Drawing:
        """Return the scale. Raise UserError for a run without one."""
        numbers = scales(self.of)
        return Drawing(numbers, partial(draw, numbers), text(numbers), height=2.8)
