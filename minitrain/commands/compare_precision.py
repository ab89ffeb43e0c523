"""Compare 16-bit training with and without a loss scale."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from ..backend import xp
from ..comm.communicator import Communicator
from ..data.batch import Batch
from ..models import mlp
from ..observe.draw import chart
from ..observe.ledger import Ledger
from ..optim import Adam
from ..train.history import Update
from ..train.progress import Progress
from ..train.step import compute_gradients
from ..train.trainer import Trainer
from . import figure
from .options import PrecisionOptions
from .run_folder import RunFolder
from .small_runs import CompareOptions, Result, data, follow, overlap, plain, table

# Task -> the divisor of the loss. The constructed task divides by 2^17, as if the batch were that much larger: 2^22
# predictions for 32 images, no more than the tokens in a batch of a large language model. The gradient of the others is
# left out. Adam's epsilon is divided by the same number, so that both tasks are identical in float32.
TASKS = {"plain": 1, "constructed": 2**17}
STATES = ("parameters", "gradients", "optimizer")
NOTES = """
underflow: share of the gradients nonzero in fp32 that are 0 at equal weights
kept: activations for backward; bytes per parameter: weight+gradient+optimizer
The dynamic scale doubles after {every} good batches so that it moves in a run this
short. The usual 2,000 skips fewer batches."""


@dataclass(frozen=True)
class HalfResult(Result):
    """A result with the loss scale of each batch, the number of skipped batches, and the share of zero gradients."""

    scales: list[float]
    skips: int
    zeros: float


def precision_settings(updates: int) -> dict[str, PrecisionOptions]:
    """Return the settings to compare, float32 first.

    A dynamic scale doubles after a twentieth of the run, since the usual 2,000 updates are longer than the run."""
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
    """Return a trainer with this seed and precision, for the task whose loss is divided by `parts`."""
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
    """Return the batch as part of one with `parts` times as many predictions, the number that divides its loss."""
    return replace(batch, where=replace(batch.where, counted=batch.where.count * parts))


def train_precise(
    trainer: Trainer, options: CompareOptions, parts: int, seed: int, full: Trainer | None = None
) -> HalfResult:
    """Train once. full: the trainer of the float32 run with this seed, after its run; None for that run."""
    learned, held_out = data(options, seed)
    scales: list[float] = []

    def updates() -> Iterator[Update]:
        for number in range(options.updates):
            scales.append(trainer.scaler.value)
            yield trainer.step(weighted(learned.batch(number), parts))

    found = follow(trainer, updates(), options.updates, learned, held_out)
    losses = [loss * parts for loss in found.losses]
    zeros = 0.0 if full is None else underflow(full, trainer, weighted(learned.batch(options.updates), parts))
    return HalfResult(**{**vars(found), "losses": losses}, scales=scales, skips=trainer.scaler.skips, zeros=zeros)


def underflow(full: Trainer, half: Trainer, batch: Batch) -> float:
    """Return the share of gradients that are exactly 0 in half precision, of those that are nonzero in float32.

    Both are computed on this batch, new to both, at the final weights of the float32 run, which overwrite those of
    `half`, and with the final loss scale of half's own run, if any. A few gradients are lost to rounding rather than
    underflow: those of a relu that is barely on in float32 and off in half precision.
    """
    for p, q in zip(full.model.parameters(), half.model.parameters(), strict=True):
        q.data[...] = p.data
    for trainer in (full, half):
        with np.errstate(all="ignore"):
            compute_gradients(trainer.model, trainer.local_batch(batch), trainer.reducer, 1, trainer.scaler)
    lost = there = 0
    for p, q in zip(full.model.parameters(), half.model.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None
        there += int((p.grad != 0).sum())
        lost += int(((p.grad != 0) & (q.grad == 0)).sum())
    return lost / max(there, 1)


def held(world: Communicator, options: CompareOptions, o: PrecisionOptions) -> dict[str, int]:
    """Return kind -> peak bytes of it on this rank in the second update (the first creates the optimizer's state), and
    "count" -> number of parameters. Any learning rate that does not diverge will do."""
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
    """Return a chart of the scales, tables of the tasks and costs, and the paths of the files. All ranks call it."""
    settings = precision_settings(options.updates)
    results: dict[tuple[str, str], list[HalfResult]] = {(task, name): [] for task in TASKS for name in settings}
    full: dict[tuple[str, int], Trainer] = {}
    with Progress(world).task("", len(results), "settings") as shown:
        for task, name in shown.watch(results):
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
    """Return the heading of a task's table."""
    what = f"digits, {options.updates} batches of {options.batch} at learning rate {options.lr[0]:g}"
    if parts > 1:
        what = f"the loss / {parts:,}, as if a batch had {options.batch * parts:,} images"
    return f"\n{task} task: {what}\nmedian (lowest-highest) of {options.seeds} starts\n"


def cost(results: dict[tuple[str, str], list[HalfResult]], sizes: dict[str, dict[str, int]], every: int) -> str:
    """Return a table with a row per setting: medians over the starts, and bytes. every: batches after
    which a scale grows.
    """
    lines = [
        f"\n{'':<22}{'underflow, %':<21}{'batches skipped':<20}{'kept,':<7}bytes per",
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
    """Return all results, for a JSON file."""
    return [
        {"task": task, "precision": name, "bytes": sizes[name], "runs": [plain(run) for run in found]}
        for (task, name), found in results.items()
    ]


def draw_scales(curves: dict[str, list[float]], axes: Any) -> None:
    """Plot the loss scales on matplotlib axes."""
    for name, curve in curves.items():
        axes.step(range(len(curve)), curve, where="post", label=name)
    axes.set(yscale="log", xlabel="batch", ylabel="loss scale")
    axes.legend(fontsize=7)
