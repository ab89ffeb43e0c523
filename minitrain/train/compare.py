"""Comparisons: the same small run with one thing changed, on the bundled digits, from several starts.

What is compared is small on purpose, so that it takes seconds. It shows how to compare, fairly; that one choice is
better than another for a large model cannot be learned from it.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import numpy as np
import tyro

from ..comm.communicator import Communicator
from ..data.digits import load_digits, split_digits
from ..data.loader import ArrayLoader
from ..errors import UserError, check_choice, check_number, check_whole
from ..models import mlp
from ..observe.draw import chart
from ..optim import Adam
from . import figure
from .config import LearningRates, OptimizerOptions
from .lr_range import smooth
from .trainer import QUIET, Trainer

NAMES: tuple[LearningRates, ...] = get_args(LearningRates)
SHOWN = ("constant", "cosine", "inverse-time", "one-cycle")  # in the text chart, where more cannot be told apart


@dataclass(frozen=True)
class CompareOptions:
    """What is compared, and how long and how often."""

    what: tyro.conf.Positional[Literal["schedules"]]
    """schedules: of the learning rate, each at that peak of --lr where its median validation loss is lowest."""
    updates: int = 200
    """Of each run."""
    batch: int = 32
    """Samples per update, over all ranks together."""
    lr: tuple[float, ...] = (0.003, 0.01, 0.03)
    """Largest learning rates to try."""
    seeds: int = 5
    """Starts: initial values, order of the data, and which samples are held out."""
    out: Path = Path("build/compare")
    """Folder for the numbers, and the picture."""

    def check(self) -> None:
        """Raises UserError for options that cannot be meant."""
        check_choice("what", self.what, tuple(COMPARISONS))
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


def train(world: Communicator, options: CompareOptions, o: OptimizerOptions, seed: int) -> Result:
    """One run of Adam as `o` says, from the start that belongs to the seed; called by all ranks."""
    learned, held_out = data(options, seed)
    trainer = Trainer(mlp(), world, optimizer=Adam, schedule=o.schedule(), momentum=o.momentum(), seed=seed)
    losses: list[float] = []
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            for number in range(options.updates):
                losses += trainer.agreed([trainer.step(learned.batch(number)).loss])
            found = [trainer.mean_loss(x.validation()) for x in (learned, held_out)]
            return Result(losses, *trainer.agreed([*found, trainer.accuracy(held_out.validation())]))
    except UserError:
        if not losses:
            raise
        # From the second update on it can only be a loss that is no number, on all ranks.
        return Result(losses, math.inf, math.inf, 0.0)


# Schedules ------------------------------------------------------------------------------------------------------------


def schedule_options(name: LearningRates, peak: float, updates: int, epoch: int) -> OptimizerOptions:
    """So that each uses its budget: a tenth of it is warm-up, then down to (almost) nothing where that is its nature.

    exponential: to 1%; step: by ten in each third; inverse-time: peak / (1 + epoch); restarts: 1, 2 and 4 parts of 7.
    """
    warmup = updates // 10
    rest = updates - warmup
    every = {"exponential": rest, "step": -(-rest // 3), "cosine-restarts": -(-rest // 7)}.get(name, epoch)
    gamma = 0.01 if name == "exponential" else 0.1
    return OptimizerOptions(updates, peak, name, lr_floor=0.0, warmup=warmup, lr_every=every, lr_gamma=gamma)


def schedules(options: CompareOptions, world: Communicator) -> str:
    """A chart, a table, and where the numbers are; called by all ranks."""
    epoch, updates = data(options, 1)[0].batches, options.updates
    runs: dict[tuple[str, float], OptimizerOptions] = {}
    runs |= {(name, lr): schedule_options(name, lr, updates, epoch) for name in NAMES for lr in options.lr}
    results: dict[tuple[str, float], list[Result]] = {}
    for (name, lr), o in watch(runs.items(), len(runs), world):
        results[name, lr] = [train(world, options, o, seed) for seed in range(1, options.seeds + 1)]
    best: dict[str, float] = {name: min(options.lr, key=lambda lr: middle(results[name, lr])) for name in NAMES}
    rows: dict[str, list[Result]] = {name: results[name, best[name]] for name in NAMES}
    curves = {name: smooth_median(found) for name, found in rows.items()}
    peaks = ", ".join(f"{lr:g}" for lr in options.lr)
    says = [
        chart({name: curves[name] for name in SHOWN}, "loss", "update", log=True),
        f"\nafter {updates} updates: median (lowest-highest) of {options.seeds} starts\n",
        table({f"{name:<16}{best[name]:<6g}": found for name, found in rows.items()}, f"{'':<16}{'peak':<6}"),
        f"\npeak: the one of {peaks} with the lowest median validation loss",
        overlap(rows.values()),
    ]
    if world.rank == 0:
        rates = {key: [o.schedule()(t) for t in range(updates)] for key, o in runs.items()}
        says.append(figure.write(options.out / "schedules.json", numbers(rates, results), partial(draw, curves)))
    return "\n".join(filter(None, says))


def numbers(rates: dict[tuple[str, float], list[float]], results: dict[tuple[str, float], list[Result]]) -> list[dict]:
    """All there is to know, for a file."""
    return [
        {"schedule": name, "peak": lr, "rates": rates[name, lr], "runs": [plain(run) for run in found]}
        for (name, lr), found in results.items()
    ]


COMPARISONS: dict[str, Callable[[CompareOptions, Communicator], str]] = {"schedules": schedules}


def run(options: CompareOptions, world: Communicator) -> str:
    """The comparison that was asked for; called by all ranks. Raises UserError for wrong options."""
    options.check()
    if world.rank == 0:
        figure.open_folder(options.out, f"{options.what}.json", f"{options.what}.svg")
    return COMPARISONS[options.what](options, world)


# For all of them ------------------------------------------------------------------------------------------------------


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
    return {key: None if value == math.inf else value for key, value in vars(run).items()}


def draw(curves: dict[str, list[float]], axes: Any) -> None:
    """The curves on axes of matplotlib."""
    for name, curve in curves.items():
        axes.plot(curve, label=name, linewidth=1)
    axes.set(yscale="log", xlabel="update", ylabel="training loss, smoothed")
    axes.legend(frameon=False, fontsize=7, ncols=2)
