"""Peak memory of training: how far the resident size rises above its value after the imports.

Each side has its own process, since the operating system records one peak per process, and the other side's libraries
and allocator settings would distort it. The peak is VmHWM of /proc if available; elsewhere ru_maxrss of getrusage,
which on Linux starts at the size of the parent process. The baseline is taken after a step of a tiny model, since
PyTorch imports 90 MB of its modules only on first use.
"""

import resource
import sys
from pathlib import Path

from tests.benchmarks import jobs, timing
from tests.benchmarks.sizes import SIZES, Row, Size, row
from tests.benchmarks.timing import Side

STEPS = 3  # the second one is the first that starts with the optimizer state
STATUS = Path("/proc/self/status")


def rows(size: Size) -> list[Row]:
    """Measure in two processes, one after the other."""
    ours, theirs = (jobs.result(jobs.python("memory", whose, size.name)) for whose in ("ours", "theirs"))
    return [row(f"{size.name} peak memory / PyTorch", ours, theirs, "MB", goal=0.9)]


def measure(whose: str, size: Size) -> float:
    """Return MB above the baseline after a few steps."""
    timing.step(make(whose, SIZES["tiny"]))
    baseline = peak()
    side = make(whose, size)
    for _ in range(STEPS):
        timing.step(side)
    return peak() - baseline


def make(whose: str, size: Size) -> Side:
    if whose == "theirs":
        from tests.benchmarks.theirs import Theirs

        return Theirs(size)
    from minitrain.comm.threads import world_of_one
    from tests.benchmarks.ours import Ours

    return Ours(size, world_of_one())


def peak() -> float:
    """Return the largest resident size of this process so far, in MB (10^6 bytes)."""
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    jobs.begin()
    jobs.report(measure(sys.argv[1], SIZES[sys.argv[2]]))
