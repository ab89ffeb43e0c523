"""The bubble: timelines of real pipeline runs, in virtual time.

mpirun -n 4 python lessons/14_pipeline/lesson.py [--schedule 1f1b] [--micro 4] [--figure FILE.svg]
"""

# %% What we need
import argparse
from fractions import Fraction
from importlib import import_module
from typing import Any

import minitrain  # isort: skip (it comes before NumPy, which then multiplies with one thread)
import numpy as np

from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import world_of_one
from minitrain.data.digits import load_digits
from minitrain.data.loader import ArrayLoader
from minitrain.errors import UserError
from minitrain.lessons.receipt import Receipt
from minitrain.models import MLPConfig, mlp
from minitrain.observe.clock import Clock, Stamps, Timeline
from minitrain.observe.ledger import Ledger
from minitrain.observe.observer import observing
from minitrain.optim import SGD
from minitrain.parallel.parallelize import parallelize
from minitrain.parallel.pipeline import ACTIVATIONS, GRADIENTS
from minitrain.parallel.strategy import Strategy
from minitrain.train.checkpoint import gather
from minitrain.train.step import compute_gradients

B, M, WIDTH = 32, 8, 32  # images per batch, micro-batches of the comparison, width of a layer
DIGITS = ArrayLoader(*load_digits(), B, seed=1)
bubble = import_module("minitrain.lessons.course.14_pipeline.bubble")  # the theory and the drawing


# %% The whole of pipeline parallel: the same lines for one process and for many
def train(
    world: Communicator, loader: ArrayLoader, steps: int, m: int, schedule: Any = "1f1b", clock: Clock | None = None
) -> tuple[list[float], dict[str, np.ndarray]]:
    """Train an MLP of 8 layers, divided among the ranks, with m micro-batches per update.

    schedule: a name or a function such as gpipe. clock: records virtual time; None: nothing does.
    Return the losses of the global batches and the gradients of the last one, gathered from all ranks.
    """
    model = mlp(MLPConfig(hidden=(32,) * 7, dtype="float64"))
    mesh = Mesh(world, pp=world.size)
    reducer = parallelize(model, mesh, Strategy(schedule=schedule))
    reducer.init(1)
    update = SGD(reducer)
    observer = Stamps(clock, mesh.over("layers")) if clock else None
    losses = []
    with observing(observer):
        for number in range(steps):
            batch = loader.batch(number)  # rank 0 reads its images, the last rank its labels
            loss = compute_gradients(model, batch, reducer, m)  # follows the schedule
            update.step(0.1)  # once, when the pipeline is empty
            losses.append(sum(world.gather_objects(loss)))
    return losses, gather(model, world, "grad", reducer)


# %% The experiment
def measure(world: Communicator, schedule: str, m: int) -> tuple[Timeline, dict[str, np.ndarray], int, int]:
    """Make one update. Return its timeline, gradients, bytes sent by all ranks, and rank 1's peak activation bytes."""
    clock = Clock()
    with Ledger(history=True).open() as ledger:
        _, reducer = train(world, DIGITS, 1, m, schedule, clock)
    sent = ledger.bytes[ACTIVATIONS] + ledger.bytes[GRADIENTS]
    most = max(live.get("activations", 0) for live in ledger.history or [])
    lanes, counts, kept = zip(*world.gather_objects((clock.lane, sent, most)), strict=True)
    return Timeline(lanes), reducer, sum(counts), kept[1]


def experiment(world: Communicator, name: str, m: int, receipt: Receipt) -> dict[tuple[str, int], Timeline]:
    """Run the chosen schedule and, for comparison, GPipe, 1F1B and naive. Fill the receipt, return the timelines."""
    p, runs, gaps, sizes, kept = world.size, {}, [], set(), {}
    _, serial = train(world_of_one(), DIGITS, 1, 1)
    for schedule, micro in dict.fromkeys([(name, m), ("gpipe", M), ("1f1b", M), ("naive", m), ("naive", M)]):
        timeline, reducer, sent, kept[schedule] = measure(world, schedule, micro)
        (idle, peaks), run = bubble.THEORY[schedule](p, micro), f"{schedule}, m = {micro}"
        receipt.equal(f"{run}: idle / all time", idle, timeline.idle)
        receipt.equal(f"{run}: idle / ideal time", idle / (1 - idle), timeline.overhead)
        receipt.equal(f"{run}: most in flight", peaks, timeline.peaks)
        runs[schedule, micro] = timeline
        gaps.append(max(float(np.abs(reducer[path] - serial[path]).max()) for path in serial))
        if schedule != "interleaved":  # it has twice as many stages
            sizes.add(sent)
    theory, told = 2 * (p - 1) * B * WIDTH * 8, ", ".join(f"{size:,}" for size in sorted(sizes))
    receipt.true("bytes sent in a step, whatever the schedule", sizes == {theory}, theory, told)
    if p > 2:  # rank 0 also holds the images, and the last rank the loss
        ratio = Fraction(kept["gpipe"], kept["1f1b"])
        receipt.equal("bytes of activations on rank 1, gpipe / 1f1b", Fraction(M, min(M, p - 1)), ratio)
    receipt.below("gap to the gradients of one process", 1e-12, max(gaps))
    return runs


# %% The run
def run(world: Communicator, options: argparse.Namespace) -> None:
    """Make one update with each schedule, and show the timelines."""
    name, m, receipt = options.schedule, options.micro, Receipt()
    if world.size == 1:
        raise UserError("a pipeline needs several ranks: start it with mpirun -n 4 (or 2 to 8)")
    if not 1 <= m <= B:
        raise UserError(f"--micro is {m}; a batch has {B} images, so 1 to {B} micro-batches")
    runs = experiment(world, name, m, receipt)
    if world.rank == 0:
        print(bubble.text({key: runs[key] for key in ((name, m), ("gpipe", M), ("1f1b", M))}))
        if options.figure:
            bubble.draw(runs["gpipe", M], runs["1f1b", M], options.figure)
    receipt.print(world)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Return the options given, such as ["--figure", "FILE.svg"]; those of the command line by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--schedule", default="1f1b", choices=list(bubble.THEORY), help="the first run's (default: 1f1b)"
    )
    parser.add_argument("--micro", type=int, default=4, help="micro-batches of the first run (default: 4)")
    parser.add_argument("--figure", help="write the picture to this file")
    return parser.parse_args(given)


# %% The program
def main() -> None:
    options = arguments()
    with minitrain.launch() as world:
        run(world, options)


if __name__ == "__main__":
    main()
