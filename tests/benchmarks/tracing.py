"""What recording costs: the time of an update with and without it, `python -m tests.benchmarks.tracing`.

Both are measured in the same process in turn, UPDATES at a time, as many as `train --trace` records, and each is
compared with its neighbor, since the machine is used by others as well. Printed are the median of these ratios of wall
times, with the range of its middle half; the ratio of the shortest times, which others disturbed least; and the median
ratio of rank 0's processor time. "one" and "two" are ranks, two of them data parallel; "pipeline" is two ranks with
micro-batches of a few sequences, whose operations are the shortest.
"""

import gc
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

import minitrain
from minitrain.comm.communicator import Communicator
from minitrain.commands.draw.timed import trainer_of
from minitrain.data.loader import TextLoader
from minitrain.observe.trace import recording_rank
from minitrain.planner.presets import MODELS
from minitrain.planner.setup import Setup
from minitrain.runtime.mpirun import find_mpirun
from minitrain.train.history import Update

ROUNDS = {"minitrain": 20, "minitrain-3m": 10, "minitrain-20m": 3}
UPDATES, WARM_UP, LIMIT = 3, 4, 600


def setups(ranks: int) -> dict[str, Setup]:
    """Return what to measure on this many ranks."""
    found = {}
    for name in ROUNDS:
        model = MODELS[name]
        found[f"{name}, {'one' if ranks == 1 else 'two'}"] = Setup(model.sizes, model.batch, dp=ranks)
        if ranks == 2:
            found[f"{name}, pipeline"] = Setup(model.sizes, model.batch, pp=2, accumulate=8)
    return found


def seconds(updates: Iterator[Update], world: Communicator) -> tuple[float, float]:
    """Return the mean wall time of an update on all ranks, and this rank's mean processor time."""
    world.barrier()
    start, start_of_processor = time.perf_counter(), time.process_time()
    for _ in range(UPDATES):
        next(updates)
    processor = time.process_time() - start_of_processor
    world.barrier()
    return (time.perf_counter() - start) / UPDATES, processor / UPDATES


def measure(setup: Setup, world: Communicator, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the times of updates without and with recording, each (rounds, 2)."""
    ids = np.random.default_rng(0).integers(0, setup.sizes.vocabulary, 50 * setup.sizes.length, dtype=np.int32)
    trainer = trainer_of(setup, world)
    updates = trainer.each_update(TextLoader(ids, setup.sizes.length, setup.batch, 1), 10**6)
    for _ in range(WARM_UP):
        next(updates)
    plain: list[tuple[float, float]] = []
    recorded: list[tuple[float, float]] = []
    for i in range(rounds):
        gc.collect()
        for which in ("plain", "recorded") if i % 2 else ("recorded", "plain"):
            if which == "plain":
                plain.append(seconds(updates, world))
            else:
                with recording_rank(world.rank):
                    recorded.append(seconds(updates, world))
    trainer.close()
    return np.array(plain), np.array(recorded)


def as_rank() -> int:
    """Measure everything for this number of ranks, and print a line for each. Return 0."""
    with minitrain.launch() as world:
        for name, setup in setups(world.size).items():
            plain, recorded = measure(setup, world, ROUNDS[name.partition(",")[0]])
            costs = 100 * (recorded / plain - 1)
            low, middle, high = np.percentile(costs[:, 0], (25, 50, 75))
            if world.rank == 0:
                times = "".join(f"{1e3 * np.median(found[:, 0]):>10.1f}" for found in (plain, recorded))
                spread, best = f"{low:+.1f} to {high:+.1f}", 100 * (recorded.min(0) / plain.min(0) - 1)[0]
                print(
                    f"{name:<24}{times}{middle:>8.2f}  {spread:<15}{best:>8.2f}{np.median(costs[:, 1]):>8.2f}",
                    flush=True,
                )
    return 0


def main() -> int:
    """Start one rank, then two. Return 0, or the status of what failed."""
    mpirun = find_mpirun()
    if mpirun is None:
        sys.exit("there is no mpirun: see python -m minitrain doctor")
    heads = f"{'plain':>10}{'recorded':>10}{'cost, %':>8}  {'middle half':<15}{'at best':>8}{'CPU':>8}"
    print(f"{'ms an update':<24}{heads}", flush=True)
    for ranks in (1, 2):
        command = [mpirun, "-n", str(ranks), sys.executable, "-m", "tests.benchmarks.tracing", "--rank"]
        if status := subprocess.run(command, stdin=subprocess.DEVNULL, timeout=LIMIT).returncode:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(as_rank() if "--rank" in sys.argv else main())
