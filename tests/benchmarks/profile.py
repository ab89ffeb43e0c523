"""Where the time of our step goes, by operation.

Python's profiler measures every call. A function of minitrain is charged with its own time and with the own time of
the functions of NumPy and Python that it calls. Functions defined inside an operation, as its derivatives are, count as
the operation. What is left of the measured step are the functions that NumPy's functions call, and the profiler itself.
"""

import cProfile
import gc
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import minitrain
from minitrain.comm.threads import world_of_one
from tests.benchmarks import jobs, timing
from tests.benchmarks.ours import Ours
from tests.benchmarks.sizes import SIZES, Row, Size, row

PACKAGE = Path(minitrain.__file__).parent
WARM_UP = 2  # steps: the first one creates the optimizer state
SHOWN = 12  # operations; the others together are one line
STEP = "step"


def rows(size: Size, steps: int) -> list[Row]:
    """Measure in a separate process. In each row, "theirs" is the whole step, as long as it is under the profiler."""
    return as_rows(size, jobs.result(jobs.python("profile", size.name, steps)))


def as_rows(size: Size, found: dict[str, float]) -> list[Row]:
    """found: milliseconds of a step by operation, and of the whole under STEP."""
    step = found[STEP]
    shown = sorted(((ms, name) for name, ms in found.items() if name != STEP), reverse=True)[:SHOWN]
    shown.append((step - sum(ms for ms, _ in shown), "all others"))
    return [row(f"{size.name} {name} / step", ms, step, "ms") for ms, name in shown if ms > 0]


def measure(size: Size, steps: int) -> dict[str, float]:
    """Return the milliseconds of a step by operation, and of the whole under STEP; means of some steps."""
    ours, profiler = Ours(size, world_of_one()), cProfile.Profile()
    for _ in range(WARM_UP):
        timing.step(ours)
    gc.collect()
    gc.disable()
    profiler.enable()
    whole = sum(timing.step(ours)[0] for _ in range(steps))
    profiler.disable()
    gc.enable()
    taken: dict[str, float] = defaultdict(float)
    for name, seconds in [(STEP, whole), *own_times(profiler.getstats())]:
        taken[name] += 1e3 * seconds / steps
    return taken


def own_times(entries: list[Any]) -> Iterator[tuple[str, float]]:
    """Yield (operation, seconds) for each function of minitrain, and for all others that it calls."""
    for entry in entries:
        if name := operation(entry.code):
            yield name, entry.inlinetime
            for called in entry.calls or ():
                if not operation(called.code):
                    yield name, called.inlinetime


def operation(code: CodeType | str) -> str:
    """Return a function's module and name, or those of the operation that contains it; "" if it is not minitrain's."""
    if isinstance(code, str) or PACKAGE not in (path := Path(code.co_filename)).parents:
        return ""
    name = getattr(code, "co_qualname", code.co_name)  # Python 3.10 lacks the qualified name
    return f"{path.stem}.{name.partition('.<locals>')[0]}"


if __name__ == "__main__":
    jobs.begin()
    jobs.report(measure(SIZES[sys.argv[1]], int(sys.argv[2])))
