"""Compare small runs that differ in one setting, on the bundled digits, each from several starts.

The runs are small on purpose and take seconds. They show how to make a fair comparison; they do not show which choice
is better for a large model.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import numpy as np
import tyro

from ..data.digits import load_digits, split_digits
from ..data.loader import ArrayLoader
from ..errors import UserError, check_choice, check_number, check_whole
from ..train.history import Update
from ..train.trainer import Trainer
from .lr_range import smooth

What = Literal["schedules", "precision"]


@dataclass(frozen=True)
class CompareOptions:
    """What to compare, for how long, and how often."""

    what: tyro.conf.Positional[What]
    """schedules: learning-rate schedules, each at the --lr that gives its lowest median validation loss. precision:
    16 bits with and without a loss scale, at the first --lr."""
    updates: int = 200
    """Updates per run. For precision: batches, a few of which the loss scale skips."""
    batch: int = 32
    """Samples per update, over all ranks."""
    lr: tuple[float, ...] = (0.003, 0.01, 0.03)
    """Peak learning rates to try."""
    seeds: int = 5
    """Number of starts, each with its own initial values, data order and held-out samples."""
    out: Path = Path("build/compare")
    """Folder for the numbers and the picture. Earlier files in build/compare move to build/compare.1 and so on."""
    overwrite: bool = False
    """Replace the earlier files in the folder."""

    def check(self) -> None:
        """Raise UserError for invalid options."""
        check_choice("what", self.what, get_args(What))
        for name, least in (("updates", 20), ("batch", 1), ("seeds", 1)):
            check_whole(f"--{name}", getattr(self, name), least)
        if not self.lr:
            raise UserError("--lr names no learning rate; give at least one")
        for lr in self.lr:
            check_number("--lr", lr, "above 0")


@dataclass(frozen=True)
class Result:
    """All training losses of one run, and its final losses and accuracy (a fraction) over all samples.

    The final losses are infinite if the run diverged.
    """

    losses: list[float]
    loss: float
    validation: float
    accuracy: float


def data(options: CompareOptions, seed: int) -> tuple[ArrayLoader, ArrayLoader]:
    """Return (training digits, held-out digits)."""
    images, labels = load_digits()
    parts = split_digits(images.astype(np.float32), labels, seed)
    learned, held_out = (ArrayLoader(*examples, batch=options.batch, seed=seed) for examples in parts)
    return learned, held_out


def follow(
    trainer: Trainer, updates: Iterable[Update], count: int, learned: ArrayLoader, held_out: ArrayLoader
) -> Result:
    """Run these updates, `count` in all; return infinite losses if training diverged.

    Raise UserError if not even one update succeeds.
    """
    losses: list[float] = []
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            for update in trainer.progress.watch(updates, count, "run", "updates"):
                losses += trainer.agreed([update.loss])
            found = [trainer.mean_loss(x.validation()) for x in (learned, held_out)]
            return Result(losses, *trainer.agreed([*found, trainer.accuracy(held_out.validation())]))
    except UserError:
        if not losses:
            raise
        # After the first update the only possible cause is a NaN or infinite loss, on all ranks.
        return Result(losses, math.inf, math.inf, 0.0)


def middle(results: Iterable[Result]) -> float:
    """Return the median validation loss over the starts."""
    return median(result.validation for result in results)


def smooth_median(results: Iterable[Result]) -> list[float]:
    """Return the median over the starts of the smoothed losses, cut to the shortest run."""
    return [median(losses) for losses in zip(*(smooth(result.losses) for result in results), strict=False)]


def table(rows: dict[str, list[Result]], heading: str) -> str:
    """Return a table with a row per setting, 80 columns wide if the names are 22 wide."""
    lines = [f"{heading}{'training loss':<20}{'validation loss':<20}accuracy, %"]
    for name, results in rows.items():
        cells = [
            spread((result.loss for result in results), ".3f"),
            spread((result.validation for result in results), ".3f"),
            spread((100 * result.accuracy for result in results), ".1f"),
        ]
        lines.append(f"{name}{cells[0]:<20}{cells[1]:<20}{cells[2]}")
    return "\n".join(lines)


def spread(values: Iterable[float], form: str) -> str:
    """Format the median, lowest and highest of the values."""
    known = sorted(values)
    low, high = known[0], known[-1]
    return f"{median(known):{form}} ({low:{form}}-{high:{form}})"


def overlap(rows: Iterable[Sequence[Result]]) -> str:
    """Return a warning if no setting is clearly the best, else ""."""
    ranges = [sorted(result.validation for result in results) for results in rows]
    if max(values[0] for values in ranges) > min(values[-1] for values in ranges):
        return ""
    return "the ranges of all validation losses overlap: no setting is clearly the best"


def plain(run: Result) -> dict[str, Any]:
    """Return a dictionary for JSON, with null for infinity and NaN."""

    def known(value: Any) -> Any:
        return [*map(known, value)] if isinstance(value, list) else value if math.isfinite(value) else None

    return {key: known(value) for key, value in vars(run).items()}


def draw(curves: dict[str, list[float]], axes: Any) -> None:
    """Plot the curves on matplotlib axes."""
    for name, curve in curves.items():
        axes.plot(curve, label=name, linewidth=1.2)
    axes.set(yscale="log", xlabel="update", ylabel="training loss, smoothed")
    axes.legend(fontsize=7, ncols=2)
