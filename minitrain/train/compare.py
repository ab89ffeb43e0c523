"""Comparisons: the same small run with one thing changed, on the bundled digits, from several starts.

What is compared is small on purpose, so that it takes seconds. It shows how to compare, fairly; that one choice is
better than another for a large model cannot be learned from it.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import numpy as np
import tyro

from ..backend import xp
from ..comm.communicator import Communicator
from ..data.batch import Batch
from ..data.digits import load_digits, split_digits
from ..data.loader import ArrayLoader
from ..errors import UserError, check_choice, check_number, check_whole
from ..models import mlp
from ..observe.draw import chart
from ..observe.ledger import Ledger
from ..optim import Adam
from . import figure
from .config import LearningRates, OptimizerOptions, PrecisionOptions
from .folder import RunFolder
from .lr_range import smooth
from .step import compute_gradients
from .trainer import QUIET, Trainer, Update

NAMES: tuple[LearningRates, ...] = get_args(LearningRates)
SHOWN = ("constant", "cosine", "inverse-time", "one-cycle")  # in the text chart, where more cannot be told apart


@dataclass(frozen=True)
class CompareOptions:
    """What is compared, and how long and how often."""

    what: tyro.conf.Positional[Literal["schedules", "precision"]]
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
    return follow(trainer, trainer.each_update(learned, options.updates), learned, held_out)


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


def schedules(options: CompareOptions, world: Communicator, folder: RunFolder) -> str:
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
        says.append(folder.begin())
        says.append(figure.write(folder.path / "schedules.json", numbers(rates, results), partial(draw, curves)))
    return "\n".join(filter(None, says))


def numbers(rates: dict[tuple[str, float], list[float]], results: dict[tuple[str, float], list[Result]]) -> list[dict]:
    """All there is to know, for a file."""
    return [
        {"schedule": name, "peak": lr, "rates": rates[name, lr], "runs": [plain(run) for run in found]}
        for (name, lr), found in results.items()
    ]


# Precision ------------------------------------------------------------------------------------------------------------

# Tasks: what the loss is divided by. The constructed one takes the images of a batch for a part of one with so many
# times more: with 32, for 2^22 predictions, which is no more than batches of large language models have in tokens. The
# others' part of the gradient is left out. Adam's epsilon is divided too, so that the two are the same in float32.
TASKS = {"plain": 1, "constructed": 2**17}
STATES = ("parameters", "gradients", "optimizer")
NOTES = """
underflow: gradients that are 0, of those that are not 0 in fp32, at one place
kept: activations for backward; bytes a parameter: weight + gradient + optimizer
a dynamic scale is doubled after {every} good batches, so that it moves in so short
a run; usually after 2,000: then fewer are skipped"""


@dataclass(frozen=True)
class HalfResult(Result):
    """The scale that each batch had, how many were skipped, and the share of the gradients that became 0."""

    scales: list[float]
    skips: int
    zeros: float


def precision_settings(updates: int) -> dict[str, PrecisionOptions]:
    """What is compared, float32 first. A dynamic scale is doubled after a twentieth of the run: after the usual 2,000
    updates, none would be in so short a run."""
    every = max(1, updates // 20)
    settings = {
        "fp32": PrecisionOptions(),
        "bf16": PrecisionOptions("bf16"),
        "fp16, no scale": PrecisionOptions("fp16", scaling="none"),
        "fp16, static": PrecisionOptions("fp16", scaling="static", loss_scale=2.0**12),
        "fp16, dynamic": PrecisionOptions("fp16", scale_every=every),
        "fp16, half weights": PrecisionOptions("fp16", half_weights=True, scale_every=every),
    }
    return {name: o for name, o in settings.items() if xp is np or o.precision != "bf16"}  # CuPy has no bfloat16


def precise(world: Communicator, options: CompareOptions, o: PrecisionOptions, parts: int, seed: int) -> Trainer:
    """Of the start that belongs to the seed, in this precision, for the task whose loss is divided by `parts`."""
    return Trainer(
        mlp(),
        world,
        optimizer=partial(Adam, epsilon=1e-8 / parts),
        schedule=options.lr[0],
        seed=seed,
        precision=o.policy(),
        half_weights=o.half_weights,
        scaler=o.scaler(),
    )


def weighted(batch: Batch, parts: int) -> Batch:
    """The batch as a part of one that has `parts` times as many predictions, by which its loss is divided."""
    return replace(batch, where=replace(batch.where, counted=batch.where.count * parts))


def train_precise(
    trainer: Trainer, options: CompareOptions, parts: int, seed: int, full: Trainer | None = None
) -> HalfResult:
    """One run. full: that of float32 from the same start, which was run before; None: this is it."""
    learned, held_out = data(options, seed)
    scales: list[float] = []

    def updates() -> Iterator[Update]:
        for number in range(options.updates):
            scales.append(trainer.scaler.value)
            yield trainer.step(weighted(learned.batch(number), parts))

    found = follow(trainer, updates(), learned, held_out)
    losses = [loss * parts for loss in found.losses]
    zeros = 0.0 if full is None else underflow(full, trainer, weighted(learned.batch(options.updates), parts))
    return HalfResult(**{**vars(found), "losses": losses}, scales=scales, skips=trainer.scaler.skips, zeros=zeros)


def underflow(full: Trainer, half: Trainer, batch: Batch) -> float:
    """The share of the gradients that are exactly 0 in half precision, of those that are not 0 in float32.

    Both are of this batch, which neither has seen, at the weights where float32's run has ended (half's are overwritten
    with them); half's with the loss scale at which its own run has ended, if it has one. A few are lost by rounding and
    not by underflow: of a relu that float32 sees just on, and half precision just off.
    """
    for p, q in zip(full.model.parameters(), half.model.parameters(), strict=True):
        q.data[...] = p.data
    for trainer in (full, half):
        with np.errstate(all="ignore"):
            compute_gradients(trainer.model, trainer.mine(batch), trainer.gradients, 1, trainer.scaler)
    lost = there = 0
    for p, q in zip(full.model.parameters(), half.model.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None
        there += int((p.grad != 0).sum())
        lost += int(((p.grad != 0) & (q.grad == 0)).sum())
    return lost / max(there, 1)


def held(world: Communicator, options: CompareOptions, o: PrecisionOptions) -> dict[str, int]:
    """Kind -> the most bytes of it that this rank holds in an update (the second, since the first makes the state), and
    the "count" of parameters. They are the same at any learning rate, and this one does not explode."""
    options = replace(options, lr=(0.001,))
    learned, _ = data(options, 1)
    ledger = Ledger()
    with ledger.open():
        trainer = precise(world, options, o, 1, 1)
        trainer.step(learned.batch(0))
        ledger.history = []
        trainer.step(learned.batch(1))
    most = {kind: max(live.get(kind, 0) for live in ledger.history) for kind in (*STATES, "activations")}
    return {"count": sum(math.prod(p.shape) for p in trainer.model.parameters()), **most}


def precisions(options: CompareOptions, world: Communicator, folder: RunFolder) -> str:
    """The scale as a chart, a table for each task, one of what it took, and where the numbers are; by all ranks."""
    settings = precision_settings(options.updates)
    results: dict[tuple[str, str], list[HalfResult]] = {(task, name): [] for task in TASKS for name in settings}
    full: dict[tuple[str, int], Trainer] = {}
    for task, name in watch(results, len(results), world):
        for seed in range(1, options.seeds + 1):
            trainer = precise(world, options, settings[name], TASKS[task], seed)
            found = train_precise(trainer, options, TASKS[task], seed, full.get((task, seed)))
            results[task, name].append(found)
            full.setdefault((task, seed), trainer)  # float32 comes first
    sizes = {name: held(world, options, o) for name, o in settings.items()}
    curves = {f"dynamic, {task}": results[task, "fp16, dynamic"][0].scales for task in TASKS}
    curves["static"] = results["plain", "fp16, static"][0].scales
    says = [chart(curves, "loss scale", "batch of the first start,", log=True)]
    for task, parts in TASKS.items():
        rows: dict[str, list[Result]] = {f"{name:<22}": [*results[task, name]] for name in settings}
        says += [described(task, parts, options), table(rows, f"{'':<22}"), overlap(rows.values())]
    says.append(cost(results, sizes, settings["fp16, dynamic"].scale_every))
    if world.rank == 0:
        numbers = precision_numbers(results, sizes)
        says.append(folder.begin())
        says.append("\n" + figure.write(folder.path / "precision.json", numbers, partial(draw_scales, curves)))
    return "\n".join(filter(None, says))


def described(task: str, parts: int, options: CompareOptions) -> str:
    """The task in words, above its table."""
    what = f"digits, {options.updates} batches of {options.batch} at the rate {options.lr[0]:g}"
    if parts > 1:
        what = f"the loss / {parts:,}, as if a batch had {options.batch * parts:,} images"
    return f"\n{task} task: {what}\nmedian (lowest-highest) of {options.seeds} starts\n"


def cost(results: dict[tuple[str, str], list[HalfResult]], sizes: dict[str, dict[str, int]], every: int) -> str:
    """One row a setting; of the runs, the medians over the starts."""
    lines = [
        f"\n{'':<22}{'underflow, %':<21}{'batches skipped':<20}{'kept,':<7}bytes a",
        f"{'':<22}" + f"{'plain':<8}{'constructed':<13}" + f"{'plain':<7}{'constructed':<13}" + f"{'KiB':<7}parameter",
    ]
    for name, size in sizes.items():
        zeros = [median(100 * run.zeros for run in results[task, name]) for task in TASKS]
        skips = [median(run.skips for run in results[task, name]) for task in TASKS]
        states = " + ".join(f"{size[kind] / size['count']:.0f}" for kind in STATES)
        lines.append(
            f"{name:<22}{zeros[0]:<8.2f}{zeros[1]:<13.2f}{skips[0]:<7g}{skips[1]:<13g}"
            f"{size['activations'] / 1024:<7.1f}{states}"
        )
    return "\n".join([*lines, NOTES.format(every=every)])


def precision_numbers(
    results: dict[tuple[str, str], list[HalfResult]], sizes: dict[str, dict[str, int]]
) -> list[dict[str, Any]]:
    """All there is to know, for a file."""
    return [
        {"task": task, "precision": name, "bytes": sizes[name], "runs": [plain(run) for run in found]}
        for (task, name), found in results.items()
    ]


def draw_scales(curves: dict[str, list[float]], axes: Any) -> None:
    """The loss scales on axes of matplotlib."""
    for name, curve in curves.items():
        axes.step(range(len(curve)), curve, where="post", label=name, linewidth=1)
    axes.set(yscale="log", xlabel="batch", ylabel="loss scale")
    axes.legend(frameon=False, fontsize=7)


COMPARISONS: dict[str, Callable[[CompareOptions, Communicator, RunFolder], str]] = {
    "schedules": schedules,
    "precision": precisions,
}


def run(options: CompareOptions, world: Communicator) -> str:
    """The comparison that was asked for; called by all ranks. Raises UserError for wrong options."""
    options.check()
    names = f"{options.what}.json", f"{options.what}.svg"
    aside = options.out == CompareOptions.out
    with RunFolder(world, options.out, names, options.overwrite, aside) as folder:
        return COMPARISONS[options.what](options, world, folder)


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

    def known(value: Any) -> Any:
        return [*map(known, value)] if isinstance(value, list) else value if math.isfinite(value) else None

    return {key: known(value) for key, value in vars(run).items()}


def draw(curves: dict[str, list[float]], axes: Any) -> None:
    """The curves on axes of matplotlib."""
    for name, curve in curves.items():
        axes.plot(curve, label=name, linewidth=1)
    axes.set(yscale="log", xlabel="update", ylabel="training loss, smoothed")
    axes.legend(frameon=False, fontsize=7, ncols=2)
