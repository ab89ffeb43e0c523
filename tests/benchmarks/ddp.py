"""Data parallel on two ranks: ours (buckets, all-reduce of MPI) beside DistributedDataParallel on gloo.

Both have two processes of one thread, the same weights (a file that ours write) and the same batch for each rank, and
must agree about the loss. They cannot stand in the same processes (each has its launcher), so whole runs take turns. A
step ends on all ranks together, with the last bucket, so rank 0's clock tells the time; the median of the steps of a
run, and of these the median over the runs, leaves out the disturbed ones.
"""

import os
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from tests.benchmarks import jobs, timing
from tests.benchmarks.sizes import SIZES, Row, Size, row
from tests.benchmarks.timing import Side

RANKS = 2
WARM_UP = 3  # steps: DDP arranges its buckets anew after the first


def rows(size: Size, runs: int, steps: int) -> list[Row]:
    """Runs of ours and of theirs, in turn."""
    ours, theirs = [], []
    with TemporaryDirectory() as folder:
        arguments = (size.name, steps, Path(folder) / "weights.npz")
        for _ in range(runs):
            seconds, loss = jobs.result(jobs.mpirun(RANKS, "ddp", "ours", *arguments))
            ours.append(1e3 * seconds)
            seconds, other = jobs.result(*jobs.gloo(RANKS, "ddp", "theirs", *arguments))
            theirs.append(1e3 * seconds)
            timing.agree(loss, other)
    return [row(f"{size.name} step, 2 ranks / DDP on gloo", median(ours), median(theirs), "ms", goal=0.9)]


def measure(side: Side, steps: int) -> float:
    """Seconds of a step, the median of `steps`."""
    for _ in range(WARM_UP):
        timing.step(side)
    return timing.medians({"step": lambda: timing.step(side)}, steps)["step"][0]


def run_ours(size: Size, steps: int, weights: Path) -> None:
    """As one rank under mpirun."""
    import minitrain
    from tests.benchmarks.ours import Ours

    with minitrain.launch() as world:
        ours = Ours(size, world)
        if world.rank == 0:
            np.savez(weights, allow_pickle=False, **ours.weights())
        seconds = measure(ours, steps)
        if world.rank == 0:
            jobs.report([seconds, ours.loss() * RANKS])  # a part of the global mean, as the mean over the part


def run_theirs(size: Size, steps: int, weights: Path) -> None:
    """As one of the processes that jobs.gloo starts."""
    from torch import distributed

    from tests.benchmarks.theirs import Theirs

    distributed.init_process_group("gloo")
    theirs = Theirs(size, int(os.environ["RANK"]), RANKS)
    theirs.model.copy(np.load(weights))
    seconds = measure(theirs, steps)
    jobs.report([seconds, theirs.loss()])
    distributed.destroy_process_group()


if __name__ == "__main__":
    jobs.begin()
    run = {"ours": run_ours, "theirs": run_theirs}[sys.argv[1]]
    run(SIZES[sys.argv[2]], int(sys.argv[3]), Path(sys.argv[4]))
