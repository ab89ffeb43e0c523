"""In-place all_reduce of float32 on two ranks: ours and our ring against mpi4py's call, ours against gloo.

The three over MPI take turns in one job; gloo has its own job, and the two jobs take turns. Small arrays are reduced
many times in a row and the time is divided, since reading the clock takes almost as long as one call. They hold zeros,
whose sum stays zero however often it is computed.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from tests.benchmarks import jobs, timing
from tests.benchmarks.sizes import Row, row

RANKS = 2
IN_A_ROW = 2**22  # bytes: small arrays are reduced repeatedly up to this total
TAG = ("dp", "benchmark")

Found = dict[str, list[float]]  # way of reducing -> seconds for each size
Ways = dict[str, Callable[[Any], None]]


def rows(kilobytes: Sequence[int], runs: int, rounds: int, gloo: bool) -> list[Row]:
    """Run jobs over MPI and, if requested, over gloo, in turn."""
    jobs_found: list[Found] = []
    for _ in range(runs):
        found = jobs.result(jobs.mpirun(RANKS, "all_reduce", "mpi", rounds, *kilobytes))
        if gloo:
            found |= jobs.result(*jobs.gloo(RANKS, "all_reduce", "gloo", rounds, *kilobytes))
        jobs_found.append(found)
    return as_rows(kilobytes, jobs_found)


def as_rows(kilobytes: Sequence[int], jobs_found: list[Found]) -> list[Row]:
    table = []
    for i, size in enumerate(kilobytes):
        t = {way: 1e3 * median(found[way][i] for found in jobs_found) for way in jobs_found[0]}
        name = f"all_reduce {size // 1024} MB" if size >= 1024 else f"all_reduce {size} KB"
        table.append(row(f"{name} / mpi4py", t["ours"], t["mpi4py"], "ms", goal=1.05))
        table.append(row(f"{name}, ring / mpi4py", t["ring"], t["mpi4py"], "ms"))
        if "gloo" in t:
            table.append(row(f"{name} / gloo", t["ours"], t["gloo"], "ms"))
    return table


def measure(
    ways: Ways, array: Callable[[int], Any], barrier: Callable[[], Any], rounds: int, sizes: Sequence[int]
) -> Found:
    """array: makes zeros of this many float32; sizes in KB."""
    found: Found = {way: [] for way in ways}
    for size in sizes:
        x, calls = array(256 * size), max(1, IN_A_ROW // (1024 * size))
        measures = {way: partial(seconds, partial(reduce, x), barrier, calls) for way, reduce in ways.items()}
        timing.medians(measures, 1)  # warm-up
        for way, times in timing.medians(measures, rounds).items():
            found[way] += times
    return found


def seconds(reduce: Callable[[], None], barrier: Callable[[], Any], calls: int) -> list[float]:
    """Return the seconds of one call, averaged over several in a row."""
    barrier()
    reduce()  # untimed: aligns the ranks better than a barrier, and leaves the array where this way of reducing puts it
    start = perf_counter()
    for _ in range(calls):
        reduce()
    return [(perf_counter() - start) / calls]


def run_mpi(rounds: int, sizes: list[int]) -> None:
    """Run as one rank under mpirun."""
    from mpi4py import MPI

    import minitrain
    from minitrain.comm.ring import RingCommunicator

    with minitrain.launch() as world:
        ring = RingCommunicator(world)
        ways: Ways = {
            "ours": lambda x: world.all_reduce(x, TAG),
            "mpi4py": lambda x: MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, x, MPI.SUM),
            "ring": lambda x: ring.all_reduce(x, TAG),
        }
        found = measure(ways, lambda n: np.full(n, 0, np.float32), world.barrier, rounds, sizes)
        if world.rank == 0:
            jobs.report(found)


def run_gloo(rounds: int, sizes: list[int]) -> None:
    """Run as one of the processes started by jobs.gloo."""
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    ways: Ways = {"gloo": lambda x: distributed.all_reduce(x)}
    jobs.report(measure(ways, torch.zeros, distributed.barrier, rounds, sizes))
    distributed.destroy_process_group()


if __name__ == "__main__":
    jobs.begin()
    run = {"mpi": run_mpi, "gloo": run_gloo}[sys.argv[1]]
    run(int(sys.argv[2]), [int(size) for size in sys.argv[3:]])
