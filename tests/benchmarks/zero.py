"""The ZeRO stages against data parallel on two ranks: the time that sharding costs.

All four train in the same processes and take turns step by step. A step ends on all ranks together, with the last
collective, so rank 0's clock measures it.
"""

import sys
from functools import partial

from tests.benchmarks import jobs, timing
from tests.benchmarks.sizes import SIZES, Row, Size, row

RANKS = 2
WARM_UP = 2  # steps
GOALS = {"zero1": 1.05, "zero2": 1.05, "zero3": 1.3}


def rows(size: Size, rounds: int) -> list[Row]:
    """Measure in one job."""
    return as_rows(size, jobs.result(jobs.mpirun(RANKS, "zero", size.name, rounds)))


def as_rows(size: Size, found: dict[str, list[float]]) -> list[Row]:
    ms = {how: 1e3 * times[0] for how, times in found.items()}
    return [
        row(f"{size.name} step, 2 ranks, ZeRO-{how[-1]} / data parallel", ms[how], ms["bucketed"], "ms", goal)
        for how, goal in GOALS.items()
    ]


def run(size: Size, rounds: int) -> None:
    """Run as one rank under mpirun."""
    import minitrain
    from tests.benchmarks.ours import Ours

    with minitrain.launch() as world:
        sides = {how: Ours(size, world, how) for how in ("bucketed", *GOALS)}
        for side in sides.values():
            for _ in range(WARM_UP):
                timing.step(side)
        found = timing.medians({how: partial(timing.step, side) for how, side in sides.items()}, rounds)
        if world.rank == 0:
            jobs.report(found)


if __name__ == "__main__":
    jobs.begin()
    run(SIZES[sys.argv[1]], int(sys.argv[2]))
