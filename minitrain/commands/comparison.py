"""Comparisons: the same small run with one thing changed, on the bundled digits, from several starts.

What is compared is small on purpose, so that it takes seconds. It shows how to compare, fairly; that one choice is
better than another for a large model cannot be learned from it.
"""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import numpy as np
import tyro

from ..comm.communicator import Communicator
from ..data.digits import load_digits, split_digits
from ..data.loader import ArrayLoader
from ..errors import UserError, check_choice, check_number, check_whole
from ..train.trainer import QUIET, Trainer, Update
from .lr_range import smooth

What = Literal["schedules", "precision"]


@dataclass(frozen=True)
class CompareOptions:
    """What is compared, and how long and how often."""

    what: tyro.conf.Positional[What]
    """schedules: of the learning rate, each at that peak of --lr where its median validation loss is lowest. precision:
    16 bits with and without a loss scale, at the first learning rate of --lr."""
    updates: int = 200
    """Of each run; for precision, the batches, of which a few make no update."""
    batch: int = 32
    """Samples per update, over all ranks together."""
    lr: tuple[float, ...] = (0.003, 0.01, 0.03)
    """Largest learning rates to try."""
    seeds: int = 5
    """Starts: initial values, order of the data, and which samples are held out."""
    out: Path = Path("build/compare")
    """Folder for the numbers and the picture. Those in build/compare are moved to build/compare.1 and so on."""
    overwrite: bool = False
    """Replace those that are in the folder."""

    def check(self) -> None:
        """Raises UserError for options that cannot be meant."""
        check_choice("what", self.what, get_args(What))
        for name, least in (("updates", 20), ("batch", 1), ("seeds", 1)):
            check_whole(f"--{name}", getattr(self, name), least)
        if not self.lr:
            raise UserError("--lr names no learning rate; give one or more")
        for lr in self.lr:
            check_number("--lr", lr, "above 0")


@dataclass(frozen=True)
class Result:
    """Of one run: all losses of training, and what came of it, on all samples. Infinite where it exploded."""

    losses: list[float]
    loss: float
    validation: float
    accuracy: float


def data(options: CompareOptions, seed: int) -> tuple[ArrayLoader, ArrayLoader]:
    """(digits to learn from, digits held out)."""
    images, labels = load_digits()
    parts = split_digits(images.astype(np.float32), labels, seed)
    learned, held_out = (ArrayLoader(*examples, batch=options.batch, seed=seed) for examples in parts)
    return learned, held_out


def follow(trainer: Trainer, updates: Iterable[Update], learned: ArrayLoader, held_out: ArrayLoader) -> Result:
    """Makes the updates, and says what came of it."""
    losses: list[float] = []
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            for update in updates:
                losses += trainer.agreed([update.loss])
            found = [trainer.mean_loss(x.validation()) for x in (learned, held_out)]
            return Result(losses, *trainer.agreed([*found, trainer.accuracy(held_out.validation())]))
    except UserError:
        if not losses:
            raise
        # From the second update on it can only be a loss that is no number, on all ranks.
        return Result(losses, math.inf, math.inf, 0.0)


def watch(items: Iterable[Any], count: int, world: Communicator) -> Iterator[Any]:
    """The items; in between, a line that tells how far they are when nothing was said for two seconds."""
    told = time.monotonic()
    for n, item in enumerate(items, 1):
        yield item
        if n < count and world.rank == 0 and time.monotonic() - told > QUIET:
            told = time.monotonic()
            print(f"{n} of {count} settings", flush=True)


def middle(results: Iterable[Result]) -> float:
    """The median validation loss over the starts."""
    return median(result.validation for result in results)


def smooth_median(results: Iterable[Result]) -> list[float]:
    """The median over the starts of the smoothed losses, as far as all of them came."""
    return [median(losses) for losses in zip(*(smooth(result.losses) for result in results), strict=False)]


def table(rows: dict[str, list[Result]], heading: str) -> str:
    """One row a setting, in 80 columns when its name has 22."""
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
    """Their median, lowest and highest."""
    known = sorted(values)
    low, high = known[0], known[-1]
    return f"{median(known):{form}} ({low:{form}}-{high:{form}})"


def overlap(rows: Iterable[Sequence[Result]]) -> str:
    """A warning, where it is due."""
    ranges = [sorted(result.validation for result in results) for results in rows]
    if max(values[0] for values in ranges) > min(values[-1] for values in ranges):
        return ""
    return "the ranges of all validation losses overlap: no best one can be told"


def plain(run: Result) -> dict[str, Any]:
    """For JSON, which has no infinity: null."""

    def known(value: Any) -> Any:
        return [*map(known, value)] if isinstance(value, list) else value if math.isfinite(value) else None

    return {key: known(value) for key, value in vars(run).items()}


def draw(curves: dict[str, list[float]], axes: Any) -> None:
    """The curves on axes of matplotlib."""
    for name, curve in curves.items():
        axes.plot(curve, label=name, linewidth=1)
    axes.set(yscale="log", xlabel="update", ylabel="training loss, smoothed")
    axes.legend(frameon=False, fontsize=7, ncols=2)
