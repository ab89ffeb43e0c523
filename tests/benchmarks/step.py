"""The training step with its forward, backward and optimizer: ours against PyTorch's and against the floor.

Both models run in one process with the same weights and data, and take turns step by step, so that clock rate, caches
and other programs affect both alike. (So does the allocator: minitrain's import makes glibc keep freed memory, which
helps PyTorch as well.) First, their losses must agree.

The floor is the time of the step's matrix products at the rate of our BLAS on matrices of the model's shapes: no
step can be much faster without doing less. The limit of an update by Adam is the time to read w, g, m, v and to write
w, m, v, 28 bytes a parameter in float32, as fast as this machine adds one large array to another.
"""

import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from time import perf_counter

import numpy as np

from minitrain import blas, compiled
from minitrain.comm.threads import world_of_one
from minitrain.observe.ledger import Ledger
from minitrain.optim import LAMB, Optimizer
from tests.benchmarks import jobs, timing
from tests.benchmarks.ours import Ours
from tests.benchmarks.sizes import LR, SIZES, Row, Size, row
from tests.benchmarks.timing import Side

WARM_UP = 2  # steps: the first one creates the optimizer state
REPEATS = 5  # of each product for the floor, and of each sum for the limit
LAMB_GOAL = 2.0 if compiled.NAME == "numpy" else None  # its loop is never compiled
GOALS = {"step": 1.15 if blas.NAME == "numpy" else 1.0, "optimizer": 1.5}  # our time as a multiple of PyTorch's

Found = dict[str, list[float]]


def rows(size: Size, rounds: int) -> list[Row]:
    """Measure in a separate process. Without PyTorch, measure only the floor."""
    return as_rows(size, jobs.result(jobs.python("step", size.name, rounds)))


def as_rows(size: Size, found: Found) -> list[Row]:
    """found: seconds of timing.PARTS for "ours" and perhaps "theirs", of the step for "floor", of an update for "limit"
    and by rule."""
    ours, floor = [1e3 * t for t in found["ours"]], 1e3 * found["floor"][0]
    table = []
    if "theirs" in found:
        for name, t, theirs in zip(timing.PARTS, ours, found["theirs"], strict=True):
            table.append(row(f"{size.name} {name} / PyTorch", t, 1e3 * theirs, "ms", GOALS.get(name)))
    lamb, adam = (1e3 * found[rule][0] for rule in ("lamb", "adam"))
    return [
        *table,
        row(f"{size.name} step / floor", ours[0], floor, "ms"),
        row(f"{size.name} optimizer / memory limit", ours[3], 1e3 * found["limit"][0], "ms"),
        row(f"{size.name} LAMB / our Adam", lamb, adam, "ms", LAMB_GOAL),
    ]


def measure(size: Size, rounds: int) -> Found:
    """Return the seconds for as_rows."""
    ours = Ours(size, world_of_one())
    sides: dict[str, Side] = {"ours": ours}
    if find_spec("torch"):
        from tests.benchmarks.theirs import Theirs

        sides["theirs"] = theirs = Theirs(size)
        theirs.model.copy(ours.weights())
    for _ in range(WARM_UP):
        for side in sides.values():
            timing.step(side)
        timing.agree(*(side.loss() for side in sides.values()))
    found = timing.medians({name: partial(timing.step, side) for name, side in sides.items()}, rounds)
    limit = 28 * sum(p.data.size for p in ours.model.parameters()) / memory_rate()
    return {**found, **updates(ours, rounds), "floor": [flops(ours) / sgemm_rate(size)], "limit": [limit]}


def updates(ours: Ours, rounds: int) -> Found:
    """Return the seconds of an update by rules with two passes over the parameters and with one; they take turns."""
    rules: dict[str, Optimizer] = {"lamb": LAMB(ours.reducer), "adam": ours.optimizer}
    for rule in rules.values():
        rule.step(LR)
    taken: Found = {name: [] for name in rules}
    for _ in range(rounds):
        for name, rule in rules.items():
            start = perf_counter()
            rule.step(LR)
            taken[name].append(perf_counter() - start)
    return {name: [float(np.median(times))] for name, times in taken.items()}


def flops(side: Side) -> int:
    """Return the additions and multiplications of one step, as counted by our ledger."""
    ledger = Ledger()
    with ledger.open():
        timing.step(side)
    return ledger.flops


def sgemm_rate(size: Size) -> float:
    """Return float32 FLOP/s: the median over the linear layers' products, y = x W, gx = g W^T, gW = x^T g."""
    N, D = size.B * size.T, size.width
    rates = []
    for fan_in, fan_out in ((D, 3 * D), (D, D), (D, 4 * D), (4 * D, D), (D, size.V)):
        x, W, y = (np.ones(shape, np.float32) for shape in ((N, fan_in), (fan_in, fan_out), (N, fan_out)))
        for a, b, out in ((x, W, y.copy()), (y, W.T, x.copy()), (x.T, y, W.copy())):
            rates += [2 * N * fan_in * fan_out / seconds(blas.matmul, a, b, out) for _ in range(REPEATS)]
    return float(np.median(rates))


def memory_rate() -> float:
    """Return the bytes a second that are read and written: the median over additions in place of large arrays."""
    a, b = (np.ones(2**25, np.float32) for _ in range(2))
    return float(np.median([3 * a.nbytes / seconds(np.add, a, b, a) for _ in range(REPEATS)]))


def seconds(function: Callable[..., object], a: np.ndarray, b: np.ndarray, out: np.ndarray) -> float:
    start = perf_counter()
    function(a, b, out)
    return perf_counter() - start


if __name__ == "__main__":
    jobs.begin()
    jobs.report(measure(SIZES[sys.argv[1]], int(sys.argv[2])))
