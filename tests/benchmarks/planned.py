"""Wall time of an update beside the planner's prediction, on 2 ranks: `python -m tests.benchmarks.planned`.

The machine is measured first, as `plan --measure` does. Then the strategies take turns for ROUNDS rounds, and the
median of each is printed beside its prediction. Nothing is asserted: a machine that others use varies.
"""

import subprocess
import sys
from dataclasses import replace
from statistics import median

import minitrain
from minitrain.commands.draw.timed import times_of
from minitrain.parallel.strategy import Strategy
from minitrain.planner.estimate import estimate
from minitrain.planner.machines import COMPUTERS
from minitrain.planner.measure import measured
from minitrain.planner.presets import MODELS
from minitrain.planner.setup import Setup
from minitrain.runtime.mpirun import find_mpirun

RANKS, ROUNDS, LIMIT = 2, 7, 600


def setups() -> dict[str, Setup]:
    """Return the strategies to time."""
    model = MODELS["minitrain-3m"]
    base = Setup(model.sizes, model.batch, dp=2)
    piped = replace(base, dp=1, pp=2, accumulate=8)
    return {
        "dp 2": base,
        "dp 2, ZeRO-1": replace(base, strategy=Strategy(zero=1)),
        "dp 2, ZeRO-3": replace(base, strategy=Strategy(zero=3)),
        "dp 2, recomputed": replace(base, strategy=Strategy(recompute=1)),
        "tp 2": replace(base, dp=1, tp=2),
        "tp 2, sp": replace(base, dp=1, tp=2, strategy=Strategy(sp=True)),
        "pp 2, 1f1b": piped,
        "pp 2, zb-h1": replace(piped, strategy=Strategy(schedule="zb-h1")),
    }


def as_rank() -> int:
    """Measure, predict, and time the strategies in turn. Return 0."""
    with minitrain.launch() as world:
        every = setups()
        s = next(iter(every.values())).sizes
        computer, lines = measured(world, replace(COMPUTERS["laptop"], per_host=RANKS), s)
        seconds = dict(zip(every, times_of([*every.values()], ROUNDS, world), strict=True))
        if world.rank == 0:
            print(*lines, sep="\n")
            print(f"{'ms an update':<20}{'predicted':>10}{'median':>10}{'error':>8}   lowest to highest of {ROUNDS}")
            for name, setup in every.items():
                told, found = 1e3 * float(estimate(setup, computer.machine).time), [1e3 * t for t in seconds[name]]
                spread = f"{min(found):.1f} to {max(found):.1f}"
                print(f"{name:<20}{told:>10.1f}{median(found):>10.1f}{told / median(found) - 1:>8.0%}   {spread}")
    return 0


def main() -> int:
    """Start the ranks and return their status."""
    mpirun = find_mpirun()
    if mpirun is None:
        sys.exit("there is no mpirun: see python -m minitrain doctor")
    command = [mpirun, "-n", str(RANKS), sys.executable, "-m", "tests.benchmarks.planned", "--rank"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, timeout=LIMIT).returncode


if __name__ == "__main__":
    sys.exit(as_rank() if "--rank" in sys.argv else main())
