"""The bubble: the timelines of real runs of a pipeline, in virtual time, and what they say.

mpirun -n 4 python lessons/14_pipeline/lesson.py [--schedule 1f1b] [--micro 4] [--figure FILE.svg]
"""

# %% What we need
import argparse
from collections.abc import Callable
from fractions import Fraction

import minitrain  # isort: skip (it comes before NumPy, which then multiplies with one thread)
import numpy as np

from lessons.charts import figure
from lessons.receipt import Receipt
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.comm.threads import world_of_one
from minitrain.data.digits import load_digits
from minitrain.data.loader import ArrayLoader
from minitrain.errors import UserError
from minitrain.models import MLPConfig, mlp
from minitrain.observe.clock import COLOURS, Clock, Timeline
from minitrain.observe.ledger import Ledger
from minitrain.optim import SGD
from minitrain.parallel.pipeline import ACTIVATIONS, GRADIENTS, Pipeline
from minitrain.parallel.pipeline_schedules import SCHEDULES
from minitrain.train.build import reduce
from minitrain.train.checkpoint import gather
from minitrain.train.step import compute_gradients

B, M, WIDTH = 32, 8, 32  # images of a batch, micro-batches of the comparison, numbers that a layer passes on


# %% The whole of pipeline parallel: the same lines for one process and for many
def train(
    world: Communicator,
    loader: ArrayLoader,
    steps: int,
    m: int,
    schedule: str | Callable = "1f1b",
    clock: Clock | None = None,
    seed: int = 1,
) -> tuple[list[float], dict[str, np.ndarray]]:
    """Trains an MLP of 8 layers, of which each rank has some, with m micro-batches an update.

    Returns the losses of the global batches, and the gradients of the last one, put together from all ranks.
    """
    model = mlp(MLPConfig(hidden=(32,) * 7, dtype="float64"))
    chunks = 2 if schedule == "interleaved" else 1
    mesh = Mesh(world, pp=world.size)
    gradients = reduce(model, mesh, "bucketed", 1.0, seed, schedule=schedule, chunks=chunks)
    update = SGD(gradients)
    if isinstance(model, Pipeline) and clock is not None:
        model.tick(clock)
    losses = []
    for number in range(steps):
        batch = loader.batch(number)  # rank 0 reads its images, the last rank its labels
        loss = compute_gradients(model, batch, gradients, m)  # all that the schedule says, in here
        update.step(0.1)  # once, when the pipeline is empty
        losses.append(sum(world.gather_objects(loss)))
    return losses, gather(model, world, "grad", gradients)


# %% What theory says, p ranks and m micro-batches: idle time / all time, and the most in flight on each rank
THEORY: dict[str, Callable[[int, int], tuple[Fraction, list[int]]]] = {
    "naive": lambda p, m: (1 - Fraction(1, p), [1] * p),
    "gpipe": lambda p, m: (Fraction(p - 1, m + p - 1), [m] * p),
    "1f1b": lambda p, m: (Fraction(p - 1, m + p - 1), [min(m, p - r) for r in range(p)]),
    "interleaved": lambda p, m: (Fraction(p - 1, 2 * m + p - 1), [min(2 * m, 3 * p - 2 * r - 1) for r in range(p)]),
    "zb-h1": lambda p, m: (Fraction(p - 1, 3 * m + p - 1), [p] * p),  # if m >= p
}


# %% The experiment
def digits() -> ArrayLoader:
    images, labels = load_digits()
    return ArrayLoader(images, labels, B, seed=1)


def measure(world: Communicator, schedule: str, m: int) -> tuple[Timeline, dict[str, np.ndarray], int, list[int]]:
    """One update: its timeline and gradients, the bytes that all ranks sent, the most activation bytes on each rank."""
    clock = Clock()
    with Ledger(history=True).open() as ledger:
        _, gradients = train(world, digits(), 1, m, schedule, clock)
    sent = ledger.bytes[ACTIVATIONS] + ledger.bytes[GRADIENTS]
    most = max(live.get("activations", 0) for live in ledger.history or [])
    lanes, counts, kept = zip(*world.gather_objects((clock.lane, sent, most)), strict=True)
    return Timeline(lanes), gradients, sum(counts), list(kept)


def experiment(world: Communicator, name: str, m: int, receipt: Receipt) -> dict[tuple[str, int], Timeline]:
    """Runs the chosen schedule and, for comparison, GPipe, 1F1B and naive; fills the receipt, returns the timelines."""
    p, runs, gaps, sizes, kept = world.size, {}, [], set(), {}
    _, serial = train(world_of_one(), digits(), 1, 1)
    for schedule, micro in dict.fromkeys([(name, m), ("gpipe", M), ("1f1b", M), ("naive", m), ("naive", M)]):
        timeline, gradients, sent, kept[schedule] = measure(world, schedule, micro)
        (idle, peaks), run = THEORY[schedule](p, micro), f"{schedule}, m = {micro}"
        receipt.equal(f"{run}: idle / all time", idle, timeline.idle)
        if schedule != "naive":
            receipt.equal(f"{run}: idle / ideal time", idle / (1 - idle), timeline.overhead)
            receipt.equal(f"{run}: most in flight", peaks, timeline.peaks)
        runs[schedule, micro] = timeline
        gaps.append(max(float(np.abs(gradients[path] - serial[path]).max()) for path in serial))
        sizes |= {sent} if schedule != "interleaved" else set()  # it has twice as many stages
    receipt.equal("bytes sent in a step, whatever the schedule", [2 * (p - 1) * B * WIDTH * 8], sorted(sizes))
    if p > 2:  # rank 0 holds the images as well, and the last rank the loss
        ratio = Fraction(kept["gpipe"][1], kept["1f1b"][1])
        receipt.equal("bytes of activations on rank 1, gpipe / 1f1b", Fraction(M, min(M, p - 1)), ratio)
    receipt.below("gap to the gradients of one process", 1e-12, max(gaps))
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedule", default="1f1b", choices=list(SCHEDULES), help="of the first run (default: 1f1b)")
    parser.add_argument("--micro", type=int, default=4, help="micro-batches of the first run (default: 4)")
    parser.add_argument("--figure", help="write the picture to this file")
    options = parser.parse_args()
    name, m = options.schedule, options.micro
    with minitrain.launch() as world:
        if world.size == 1:
            raise UserError("a pipeline needs several ranks: start it with mpirun -n 4 (or 2 to 8)")
        if not (world.size if name == "zb-h1" else 1) <= m <= B:
            raise UserError(f"--micro is {m}; at most {B}, at least 1, and for zb-h1 the number of ranks")
        receipt = Receipt()
        runs = experiment(world, name, m, receipt)
        if world.rank == 0:
            print("virtual time; digits: forward, letters: backward, dots: the bubble")
            for run in dict.fromkeys([(name, m), ("gpipe", M), ("1f1b", M)]):
                t = runs[run]
                print(f"\n{run[0]}, {run[1]} micro-batches: idle {t.idle} of the time, in flight {t.peaks}\n{t.draw()}")
            print("\nAll stages must fill and drain in both, so gpipe and 1f1b have the same bubble;")
            print("1f1b only makes each backward earlier, so that fewer activations wait for it.")
            if options.figure:
                draw(runs["gpipe", M], runs["1f1b", M], options.figure)
        receipt.print(world)


def draw(gpipe: Timeline, one_f: Timeline, path: str) -> None:
    """One above the other: a box for each instruction, with the number of its micro-batch."""
    with figure(path, rows=2, height=4.2) as axes:
        for axis, name, t in zip(axes, ("GPipe", "1F1B"), (gpipe, one_f), strict=True):
            for r, lane in enumerate(t.lanes):
                for start, end, do in lane:
                    left, width = float(start), float(end - start)
                    axis.barh(r, width, 0.9, left, color=COLOURS[do.kind], edgecolor="white")
                    axis.text(left + width / 2, r, do.micro, ha="center", va="center", fontsize=7)
            axis.set_yticks(range(len(t.lanes)), [f"rank {r}: {peak} in flight" for r, peak in enumerate(t.peaks)])
            axis.set(title=f"{name}: {t.idle} of the time idle", xlim=(0, float(t.makespan)))
            axis.invert_yaxis()
        axes[1].set_xlabel("virtual time; blue: forward, 1 unit; orange: backward, 2 units")


if __name__ == "__main__":
    main()
