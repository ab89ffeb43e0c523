"""What a checkpoint costs: how long a save holds up training, and how much slower steps are while one is written.

Two ranks. The stall is the time of the call `save`, beside the time of a step: synchronous, it writes and forces the
data to the disk; in the background, it copies this rank's share. It depends on the disk, and on the folder for
temporary files. Steps then run until the background save is complete.
"""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from tests.benchmarks import jobs
from tests.benchmarks.sizes import LR, SIZES, Row, Size, row

if TYPE_CHECKING:
    from minitrain.data.batch import Batch

RANKS = 2
WARM_UP = 2  # steps
Found = dict[str, float]  # seconds


def rows(size: Size, rounds: int) -> list[Row]:
    """Measure in one job."""
    return as_rows(size, jobs.result(jobs.mpirun(RANKS, "saving", size.name, rounds)))


def as_rows(size: Size, found: Found) -> list[Row]:
    ms = {name: 1e3 * seconds for name, seconds in found.items()}
    return [
        row(f"{size.name} save, 2 ranks, stall / step", ms["stall"], ms["step"], "ms"),
        row(f"{size.name} save in the background, stall / step", ms["async stall"], ms["step"], "ms"),
        row(f"{size.name} step while saving / step", ms["async step"], ms["step"], "ms"),
    ]


def run(size: Size, rounds: int) -> None:
    """Run as one rank under mpirun."""
    import minitrain
    from minitrain.models import GPTConfig, gpt
    from minitrain.train.checkpoint_folder import clear
    from minitrain.train.checkpoints import Checkpoints
    from minitrain.train.trainer import Trainer

    with minitrain.launch() as world:
        model = gpt(GPTConfig(size.V, size.T, size.layers, size.heads, size.width))
        trainer = Trainer(model, world, schedule=LR)
        batch = batch_of(size, world.size)
        for _ in range(WARM_UP):
            trainer.step(batch)
        folder = world.gather_objects(tempfile.mkdtemp() if world.rank == 0 else "")[0]
        times: dict[str, list[float]] = {name: [] for name in ("step", "stall", "async stall", "async step")}
        for background in (False, True):
            saves = Checkpoints(Path(folder, str(background)), world, keep=1, background=background)
            for _ in range(rounds):
                times["step"].append(timed(lambda: trainer.step(batch)))
                times["async stall" if background else "stall"].append(timed(partial(saves.save, trainer)))
                while saves.pending is not None:
                    times["async step"].append(timed(lambda: trainer.step(batch)))
                    saves.look()
            saves.close()
        if world.rank == 0:
            for path in Path(folder).iterdir():
                clear(path)
            Path(folder).rmdir()
            jobs.report({name: median(found) for name, found in times.items()})


def batch_of(size: Size, ranks: int) -> "Batch":
    """Return the global batch."""
    from minitrain.data.batch import Batch, Where

    ids, B, T = size.ids(ranks), ranks * size.B, size.T
    return Batch(ids[:, :-1], ids[:, 1:], Where(1, 0, B, T, slice(0, B), slice(0, T)))


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that work() takes."""
    start = perf_counter()
    work()
    return perf_counter() - start


if __name__ == "__main__":
    jobs.begin()
    run(SIZES[sys.argv[1]], int(sys.argv[2]))
