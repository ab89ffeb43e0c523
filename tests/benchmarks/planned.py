"""Wall time of an update beside the planner's prediction, on 2 ranks: `python -m tests.benchmarks.planned`.

The machine is measured first, as `plan --measure` does. Then the strategies take turns for ROUNDS rounds, and the
median of each is printed beside its prediction. Nothing is asserted: a machine that others use varies.
"""

import subprocess
import sys
import time
from dataclasses import replace
from statistics import median

import numpy as np

import minitrain
from minitrain.comm.communicator import Communicator
from minitrain.comm.mesh import Mesh
from minitrain.data.loader import TextLoader
from minitrain.models import GPTConfig, gpt
from minitrain.optim import AdamW
from minitrain.parallel.strategy import Strategy
from minitrain.planner.estimate import estimate
from minitrain.planner.machines import COMPUTERS
from minitrain.planner.measure import measured
from minitrain.planner.presets import MODELS
from minitrain.planner.setup import Setup
from minitrain.runtime.mpirun import find_mpirun
from minitrain.train.trainer import Trainer

RANKS, ROUNDS, UPDATES, LIMIT = 2, 7, 3, 600


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


def trainer_of(setup: Setup, world: Communicator) -> Trainer:
    """Return a trainer of a GPT with this setup."""
    s = setup.sizes
    model = gpt(GPTConfig(s.vocabulary, s.context, s.layers, s.heads, s.width))
    mesh = Mesh(world, dp=setup.dp, pp=setup.pp, tp=setup.tp)
    return Trainer(
        model, world, optimizer=AdamW, schedule=1e-4, seed=1, mesh=mesh, strategy=setup.strategy,
        accumulate=setup.accumulate,
    )  # fmt: skip


def as_rank() -> int:
    """Measure, predict, and time the strategies in turn. Return 0."""
    with minitrain.launch() as world:
        every = setups()
        s = next(iter(every.values())).sizes
        computer, lines = measured(world, replace(COMPUTERS["laptop"], per_host=RANKS), s)
        ids = np.random.default_rng(0).integers(0, s.vocabulary, 50 * s.length, dtype=np.int32)
        running = {}
        for name, setup in every.items():
            trainer = trainer_of(setup, world)
            running[name] = trainer.each_update(TextLoader(ids, s.length, setup.batch, 1), 4 + ROUNDS * UPDATES)
            for _ in range(4):  # set-up, and the checks of the first steps
                next(running[name])
        seconds: dict[str, list[float]] = {name: [] for name in every}
        for _ in range(ROUNDS):
            for name, updates in running.items():
                world.barrier()
                start = time.perf_counter()
                for _ in range(UPDATES):
                    next(updates)
                world.barrier()
                seconds[name].append((time.perf_counter() - start) / UPDATES)
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
