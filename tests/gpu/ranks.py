"""Ranks that share one device: is each strategy the same training run as one rank on that device?

    python -m tests.gpu.ranks threads N         a part of `make gpu`: ranks are threads, with one memory
    mpirun -n N python -m tests.gpu.ranks mpi   the same with processes: arrays go through pinned host memory

Compared are the losses, norms, last gradients and parameters of three updates of a small GPT in float64, with
micro-batches and clipping. Each strategy adds in another order, so rounding may differ, but no more than that.
"""

import sys
from collections.abc import Callable

import numpy as np

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.data.loader import TextLoader
from minitrain.models import GPTConfig, gpt
from minitrain.optim import AdamW
from minitrain.runtime.launch import launch
from tests.benchmarks import jobs
from tests.gpu import strict_run
from tests.gpu.rows import FAILED, row, without_value

BOUND = 1e-10
WAYS = {  # name -> (how gradients are reduced, the mesh's axis)
    "data parallel": ("bucketed", "dp"),
    "data parallel, overlapped": ("overlap", "dp"),
    "ZeRO-3": ("zero3", "dp"),
    "tensor parallel": ("bucketed", "tp"),
    "pipeline": ("bucketed", "pp"),
}
World = Callable[[Callable[[Communicator], strict_run.Results]], strict_run.Results]


def case() -> strict_run.Case:
    """Return a GPT that four ranks can divide by heads and by layers, with batches that they cannot divide evenly."""
    text = TextLoader(np.random.default_rng(5).integers(0, 11, 200), context=6, batch=5, seed=3)
    config = GPTConfig(11, context=6, layers=3, heads=4, width=16, dropout=0.2, std=0.3, dtype="float64")
    return strict_run.Case(gpt(config), text, lambda g: AdamW(g, epsilon=1e-4))


def compare(n: int, kind: str, run: World, speaks: bool) -> None:
    """Report a row for each way. run: calls a function on all ranks and returns rank 0's result. speaks: on rank 0."""
    serial = strict_run.steps(case(), threads.world_of_one(), "bucketed")
    for name, (how, axis) in WAYS.items():
        title = f"{name}, {n} ranks as {kind}"
        try:
            found = run(lambda world, how=how, axis=axis: strict_run.steps(case(), world, how, **{axis: n}))  # type: ignore[misc]
        except RuntimeError as error:  # a thread failed; under mpirun, the whole job ends
            jobs.report(without_value(title, FAILED, str(error)))
            continue
        worst, where = strict_run.compare(found, serial)
        if speaks:
            jobs.report(row(title, worst, bound=BOUND, why="" if worst <= BOUND else where))


def main() -> None:
    """Run from the command line as described in this file's docstring."""
    if sys.argv[1] == "threads":
        n = int(sys.argv[2])
        compare(n, "threads", lambda program: threads.run(n, program)[0], speaks=True)
        return
    with launch() as world:
        compare(world.size, "processes", lambda program: program(world), speaks=world.rank == 0)


if __name__ == "__main__":
    jobs.begin()
    main()
