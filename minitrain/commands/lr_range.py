"""The learning-rate range test: increase the rate with every update until the loss explodes, and suggest a rate.

Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv:1506.01186, section 3.3; Smith, Topin,
"Super-Convergence", arXiv:1708.07120.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..comm.communicator import Communicator
from ..errors import UserError, check_number
from ..lr_schedules import range_test
from ..observe.draw import chart
from ..observe.palette import INK, LINES
from ..runtime.launch import launch
from ..train.progress import Progress
from . import figure
from .config import TrainConfig
from .options import RunOptions
from .run_folder import RunFolder
from .train import TextTrainer

MEMORY = 0.9  # decay of the moving average of the loss: about ten updates
EXPLODED = 4.0  # times the lowest smoothed loss: training has diverged
FILE, PICTURE = "lr_range.json", "lr_range.svg"


def smooth(losses: Sequence[float], memory: float = MEMORY) -> list[float]:
    """Return the bias-corrected exponential moving average of the losses.

        m_t = memory m_{t-1} + (1 - memory) loss_t        smoothed_t = m_t / (1 - memory^t),  t from 1

    Like Adam's first moment (optim.adam_step). Raise UserError for a memory outside [0, 1).
    """
    check_number("memory", memory, "at least 0 and less than 1")
    m, smoothed = 0.0, []
    for t, loss in enumerate(losses, 1):
        m = memory * m + (1 - memory) * loss
        smoothed.append(m / (1 - memory**t))
    return smoothed


def suggest_rate(rates: Sequence[float], losses: Sequence[float], memory: float = MEMORY) -> float:
    """Return the rate at which the smoothed loss falls most steeply against log(rate), before its minimum.

        argmin_t  d smoothed_t / d log(rate_t)        for t after the first 1 / (1 - memory), up to the lowest

    It lies between the two rates that the paper reads off its curve: where learning starts, and where it slows down or
    explodes. This is a rule of thumb, not the paper's. The other common one, a tenth of the rate at the lowest loss, is
    safer, but was at least three times too small for plain gradient descent on the digits. The search stops at the
    minimum, since a loss that has jumped up may fall steeply again, and skips the first updates, since a mean over few
    updates jumps. Raise UserError unless there is one rate per loss, the rates increase and the loss fell.
    """
    for name, numbers in (("rates", rates), ("losses", losses)):
        for number in numbers:
            check_number(f"one of the {name}", number, "finite")
    if len(rates) != len(losses) or len(rates) < 2 or rates[0] <= 0 or any(np.diff(rates) <= 0):
        raise UserError(f"there are {len(rates)} rates for {len(losses)} losses; the rates must grow and be above 0")
    smoothed, first = np.array(smooth(losses, memory)), math.ceil(1 / (1 - memory) - 1e-9)
    lowest = int(smoothed.argmin())
    if lowest <= first:
        raise UserError(
            f"the loss is lowest at update {lowest} of {len(losses)}, at the rate {rates[lowest]:.1e}: it hardly fell; "
            "start with a smaller rate (--min-lr), or give more updates"
        )
    slopes = np.gradient(smoothed, np.log(rates))
    return float(rates[first + int(slopes[first : lowest + 1].argmin())])


def record(
    config: TrainConfig, world: Communicator, min_lr: float, max_lr: float, updates: int
) -> tuple[list[float], list[float]]:
    """Return (rates, losses), one pair per update, until the smoothed loss explodes. All ranks call it.

    Each loss is measured before the update with its rate. Raise UserError if the first update fails.
    """
    text = TextTrainer(config, world)
    trainer, rates, losses = text.trainer, [], []
    trainer.schedule, trainer.momentum = partial(range_test, min_lr=min_lr, max_lr=max_lr, updates=updates), None
    try:
        with (
            np.errstate(over="ignore", invalid="ignore"),
            trainer.progress.task("range test", updates, "updates") as task,
        ):
            for update in task.watch(text.updates(updates)):
                if update.skipped:
                    continue  # half precision overflowed: there was no update
                rates.append(update.lr)
                losses += trainer.agreed([update.loss])  # so that all ranks stop together
                smoothed = smooth(losses)
                if smoothed[-1] > EXPLODED * min(smoothed):
                    break
    except UserError:
        if not losses:
            raise  # otherwise the loss is NaN or infinite: the explosion that ends the test
    text.close()
    return rates, losses


def show(config: TrainConfig, world: Communicator, min_lr: float, max_lr: float, updates: int) -> str:
    """Run the test and return its report. All ranks call it; rank 0 writes the curve to the folder of the run.

    Raise UserError for an empty range or an unwritable folder.
    """
    range_test(0, min_lr, max_lr, updates)
    o = config.report
    with RunFolder(world, o.out, (FILE, PICTURE), o.overwrite, aside=o.out == RunOptions.out) as folder:
        rates, losses = record(config, world, min_lr, max_lr, updates)
        return report(folder, world, rates, losses, updates)


def report(folder: RunFolder, world: Communicator, rates: list[float], losses: list[float], updates: int) -> str:
    """Return the report: a chart, the rate, and the paths of the files. updates: the planned length of the test."""
    smoothed = smooth(losses)
    try:
        named: float | None = suggest_rate(rates, losses)
        advice = (
            f"the smoothed loss falls steepest at --lr {named:.1e}, and is lowest at {rates[np.argmin(smoothed)]:.1e}"
        )
    except UserError as error:
        named, advice = None, f"no rate is suggested: {error}"
    curves = {"smoothed": smoothed}  # the raw losses leave the chart at the end; they are in the file
    axis = f"rate {rates[0]:.1e} to {rates[-1]:.1e} (logarithmic), update"
    ended = f"stopped after {len(rates)} of {updates} updates: the loss exploded" if len(rates) < updates else ""
    wrote = ""
    if world.rank == 0:
        moved = folder.begin()
        numbers = {"rates": rates, "losses": losses, "smoothed": smoothed, "named": named}
        wrote = figure.write(folder.path / FILE, numbers, partial(draw, rates, losses, smoothed, named))
        wrote = "\n".join(filter(None, [moved, wrote]))
    return "\n".join(filter(None, [chart(curves, "loss", axis), ended, advice, wrote]))


def draw(rates: list[float], losses: list[float], smoothed: list[float], named: float | None, axes: Any) -> None:
    """Plot the curve on matplotlib axes."""
    axes.plot(rates, losses, color=INK, linestyle="-", linewidth=0.7, label="loss before each update")
    axes.plot(rates, smoothed, color=LINES[0], linestyle="-", label="smoothed")
    if named is not None:
        axes.axvline(named, color=LINES[1], linestyle="--", label=f"falls steepest: {named:.1e}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(0, 1.5 * losses[0]))
    axes.legend()


@dataclass(frozen=True)
class LrRange(TrainConfig):
    """Increase the learning rate until the loss explodes, then suggest a rate."""

    min_lr: float = 1e-5
    """First learning rate."""
    max_lr: float = 1.0
    """Last learning rate, unless the loss explodes earlier."""
    updates: int = 100
    """Updates of the test; replaces --steps."""

    def run(self) -> int:
        """Print a chart and a rate; write the curve to --out."""
        with launch() as world:
            with Progress(world).task("range test"):
                text = show(self, world, self.min_lr, self.max_lr, self.updates)
            if world.rank == 0:
                print(text, flush=True)
        return 0
