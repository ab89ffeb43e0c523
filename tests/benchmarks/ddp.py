"""Data parallel on two ranks: ours (buckets, all-reduce of MPI) beside DistributedDataParallel on gloo.

Both have two processes of one thread and the same batch for each rank. They cannot stand in the same processes (each
has its launcher), so whole runs take turns. A step ends on all ranks together, with the last bucket, so rank 0's clock
tells the time; the median of the steps of a run, and of these the median over the runs, leaves out the disturbed ones.
"""

import os
import sys
from statistics import median

from tests.benchmarks import jobs, timing
from tests.benchmarks.sizes import SIZES, Row, Size, row
from tests.benchmarks.timing import Side

RANKS = 2
WARM_UP = 3  # steps: DDP arranges its buckets anew after the first


def rows(size: Size, runs: int, steps: int) -> list[Row]:
    """Runs of ours and of theirs, in turn."""
    ours, theirs = [], []
    for _ in range(runs):
        ours.append(1e3 * jobs.result(jobs.mpirun(RANKS, "ddp", "ours", size.name, steps)))
        theirs.append(1e3 * jobs.result(*jobs.gloo(RANKS, "ddp", "theirs", size.name, steps)))
    return [row(f"{size.name} step, 2 ranks / DDP on gloo", median(ours), median(theirs), "ms", goal=1.0)]


def measure(side: Side, steps: int) -> float:
    """Seconds of a step, the median of `steps`."""
    for _ in range(WARM_UP):
        timing.step(side)
    return timing.medians({"step": lambda: timing.step(side)}, steps)["step"][0]


def run_ours(size: Size, steps: int) -> None:
    """As one rank under mpirun."""
    import minitrain
    from tests.benchmarks.ours import Ours

    with minitrain.launch() as world:
        found = measure(Ours(size, world), steps)
        if world.rank == 0:
            jobs.report(found)


def run_theirs(size: Size, steps: int) -> None:
    """As one of the processes that jobs.gloo starts."""
    from torch import distributed

    from tests.benchmarks.theirs import Theirs

    distributed.init_process_group("gloo")
    jobs.report(measure(Theirs(size, int(os.environ["RANK"]), RANKS), steps))
    distributed.destroy_process_group()


if __name__ == "__main__":
    jobs.begin()
    run = {"ours": run_ours, "theirs": run_theirs}[sys.argv[1]]
    run(SIZES[sys.argv[2]], int(sys.argv[3]))
