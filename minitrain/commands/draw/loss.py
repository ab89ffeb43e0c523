"""Loss curves of one or more runs, from their logs.

The loss of one batch jumps, so the curve is the moving average of `lr_range.smooth`; each batch's own loss is faint.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from ...errors import UserError, check_number
from ...observe.draw import SYMBOLS, chart
from ...observe.palette import DASHES, LINES, SHADE
from ..lr_range import smooth
from .drawing import Drawing, Numbers, Picture
from .run_log import labels, rows_of

MARKS = "os^Dv"  # of the validations; their number is that of the dashes
POINTS = 1000  # of a faint curve: more cannot be told apart


def curves(runs: Sequence[Path], memory: float) -> Numbers:
    """Return the losses of the runs, in nats per token. memory: of the moving average.

    Raise UserError for a run without a log, or without an update.
    """
    found = []
    logs = [rows_of(run) for run in runs]
    for run, rows, label in zip(runs, logs, labels(runs), strict=True):
        updates = [row for row in rows if row.get("loss") is not None]  # a skipped batch has none
        losses = [row["loss"] for row in updates]
        if not losses:
            raise UserError(f"every batch of {run} was skipped, so that it has no loss; draw its scale instead")
        found.append({
            "folder": str(run), "label": label, "step": [row["step"] for row in updates], "loss": losses,
            "smoothed": smooth(losses, memory),
            "validation": [[row["step"], row["val_loss"]] for row in rows if "val_loss" in row],
            "final_validation": next((row["final_val_loss"] for row in rows if "final_val_loss" in row), None),
        })  # fmt: skip
    return {"memory": memory, "runs": found}


def draw(numbers: Numbers, log: bool, axes: Any) -> None:
    """Draw the curves on matplotlib axes."""
    for i, run in enumerate(numbers["runs"]):
        color, dashes = LINES[i % len(LINES)], DASHES[i % len(DASHES)]
        every = max(1, len(run["step"]) // POINTS)
        faint = {"alpha": SHADE, "linewidth": 0.7, "linestyle": "-", "zorder": 1}
        axes.plot(run["step"][::every], run["loss"][::every], color=color, **faint)
        look = {"color": color, "linestyle": dashes, "marker": MARKS[i % len(MARKS)], "markersize": 4.5}
        axes.plot(run["step"], run["smoothed"], markevery=[], label=run["label"], **look)
        points = run["validation"] + [[run["step"][-1], run["final_validation"]]] * bool(run["final_validation"])
        axes.plot([step for step, _ in points], [loss for _, loss in points], **look | {"linestyle": "none"})
    axes.set(xlabel="update", ylabel="loss, nats per token", yscale="log" if log else "linear")
    axes.set_title("lines: moving average in training; faint: each batch; points: validation", fontsize=8)
    axes.legend()


def text(numbers: Numbers, log: bool) -> str:
    """Return a chart and a table."""
    runs = numbers["runs"]
    curves = {f"run {i}": run["smoothed"] for i, run in enumerate(runs[: len(SYMBOLS)], 1)}
    lines = [chart(curves, "training loss, smoothed", "update", log=log), ""]
    lines.append(f"{'':<8}{'updates':>8}{'smoothed':>10}{'validation':>12}  run")
    for i, run in enumerate(runs, 1):
        final = "-" if run["final_validation"] is None else f"{run['final_validation']:.4f}"
        row = f"run {i:<4}{run['step'][-1]:>8,}{run['smoothed'][-1]:>10.4f}{final:>12}  "
        lines.append(row + run["label"][: 80 - len(row)])
    return "\n".join(lines)


@dataclass(frozen=True)
class Loss(Picture):
    """Draw the loss of runs, from their logs: training, smoothed and batch by batch, and validation."""

    name = "loss"

    runs: tyro.conf.Positional[tuple[Path, ...]] = (Path("build/run"),)
    """Folders of runs."""
    smooth: float = 0.9
    """Memory of the moving average, from 0 (none) to below 1: 0.9 is about ten updates."""
    log: bool = False
    """Use a logarithmic axis for the loss."""

    def drawing(self) -> Drawing:
        """Return the curves. Raise UserError for a run without a log."""
        check_number("--smooth", self.smooth, "at least 0 and less than 1")
        numbers = curves(self.runs, self.smooth)
        return Drawing(numbers, partial(draw, numbers, self.log), text(numbers, self.log), height=3.6)
