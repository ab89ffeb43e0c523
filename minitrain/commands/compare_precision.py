"""16 bits with and without a loss scale."""

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
from ..train.step import compute_gradients
from ..train.trainer import Trainer, Update
from . import figure
from .comparison import CompareOptions, Result, data, follow, overlap, plain, table, watch
from .folder import RunFolder
from .options import PrecisionOptions

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
