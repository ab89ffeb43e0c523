"""Data parallel on two ranks: ours (buckets, MPI's all-reduce) against DistributedDataParallel on gloo.

Both use two single-threaded processes, the same weights (a file that ours write) and the same batch per rank, and their
losses must agree. They need different launchers and cannot share processes, so whole runs take turns. A step ends on
all ranks together, with the last bucket, so rank 0's clock measures it; the median over a run's steps, then over the
runs, discards outliers.
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
WARM_UP = 3  # steps: DDP rearranges its buckets after the first


def rows(size: Size, runs: int, steps: int) -> list[Row]:
    """Run ours and theirs in turn."""
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
    """Return the median seconds of a step over `steps`."""
    for _ in range(WARM_UP):
        timing.step(side)
    return timing.medians({"step": lambda: timing.step(side)}, steps)["step"][0]


def run_ours(size: Size, steps: int, weights: Path) -> None:
    """Run as one rank under mpirun."""
    import minitrain
    from tests.benchmarks.ours import Ours

    with minitrain.launch() as world:
        ours = Ours(size, world)
        if world.rank == 0:
            np.savez(weights, allow_pickle=False, **ours.weights())
        seconds = measure(ours, steps)
        if world.rank == 0:
            jobs.report([seconds, ours.loss() * RANKS])  # part of the global mean, converted to the mean over this part


def run_theirs(size: Size, steps: int, weights: Path) -> None:
    """Run as one of the processes started by jobs.gloo."""
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
