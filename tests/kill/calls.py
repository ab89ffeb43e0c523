"""Fail, or end the process, at each call that a save or a load makes to the operating system.

A folder holds the complete checkpoints of steps 8 and 9. Two ranks save step 10, of which one fails or is killed at its
k-th call. Every number in a checkpoint, each parameter and each moment, is that of its step, and up to a half more, so
that a mixture shows and no two files are the same.
Names sort differently than numbers: step-10 comes before step-9.
"""

import errno
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.errors import UserError
from minitrain.models import MLPConfig, mlp
from minitrain.parallel.reducer import require
from minitrain.parallel.strategy import Strategy
from minitrain.train.checkpoint_folder import newest
from minitrain.train.checkpoints import Checkpoints
from minitrain.train.resharding import load
from minitrain.train.tensor_file import FILES, Files
from minitrain.train.trainer import Trainer

RANKS, KEEP = 2, 2
OLD, NEW, NEXT = 9, 10, 11
NAMES = ("create", "write", "sync", "rename", "unlink", "make_folder", "remove_folder", "sync_folder", "read")


class Calls(Files):
    """Counts the calls, and does something else at call k: of a write, after the first half of the data."""

    def __init__(self, k: int = 0, instead: Callable[[], None] = lambda: None) -> None:
        self.k, self.instead = k, instead
        self.made: list[str] = []

    def count(self, name: str, *arguments: Any) -> None:
        self.made.append(name)
        if len(self.made) == self.k:
            if name == "write":
                file, data = arguments
                super().write(file, memoryview(data)[: len(data) // 2])
            self.instead()


def _counted(name: str) -> Callable[..., Any]:
    def call(self: Calls, *arguments: Any) -> Any:
        self.count(name, *arguments)
        return getattr(Files, name)(self, *arguments)

    return call


for _name in NAMES:
    setattr(Calls, _name, _counted(_name))


def fail() -> None:
    """What a full or broken disk does."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def kill() -> None:
    """End the process, all ranks of it, without any cleaning up."""
    os.kill(os.getpid(), signal.SIGKILL)


# One number everywhere ------------------------------------------------------------------------------------------------


def marked(world: Communicator, value: int) -> Trainer:
    """Return a trainer after `value` updates, whose parameters and moments all have this value, and a fraction."""
    trainer = Trainer(mlp(MLPConfig(5, (), 2)), world, strategy=Strategy(zero=1 if world.size > 1 else 0))
    for i, held in enumerate(trainer.reducer.held()):
        trainer.optimizer.master(i, held.data)
    for array in arrays(trainer):
        array[...] = value + np.linspace(0, 0.5, len(array))
    trainer.optimizer.updates = trainer.batches = value
    trainer.history.add([float(value), 0.5])
    return trainer


def arrays(trainer: Trainer) -> Iterator[np.ndarray]:
    for bucket in trainer.reducer.buckets:
        yield require(bucket.data)
    for state in trainer.optimizer.state:
        yield from state


def values(trainer: Trainer) -> set[float]:
    """Return the different steps whose numbers a trainer holds; one, unless it was loaded from a mixture."""
    found = {trainer.updates, trainer.batches, *trainer.history.loss}
    return found.union(*(np.unique(np.floor(array)).tolist() for array in arrays(trainer)))


def save(
    folder: Path,
    *steps: int,
    files: Sequence[Files] = (FILES,) * RANKS,
    kind: type[Checkpoints] = Checkpoints,
    **options: Any,
) -> list[bool]:
    """Save these steps with one Checkpoints. Return which are complete."""

    def program(world: Communicator) -> list[bool]:
        given = {"keep": KEEP, "log": lambda text: None, "files": files[world.rank], **options}
        checkpoints = kind(folder, world, **given)
        saved = [checkpoints.save(marked(world, step)) and checkpoints.finish() for step in steps]
        checkpoints.close()
        return saved

    return threads.run(RANKS, program, timeout=20)[0]


def loaded(folder: Path, files: Files = FILES, log: Callable[[str], None] = lambda text: None) -> float:
    """Return the only number in the last complete checkpoint. Raise AssertionError if there are several."""
    trainer = marked(world := threads.world_of_one(), -1)
    load(trainer, *newest(folder, world, log), files)
    (value,) = values(trainer)
    return value


def prepared(folder: Path) -> Path:
    """Return a new folder with the checkpoints of two steps."""
    assert save(folder, OLD - 1, OLD) == [True, True]
    return folder


def calls(old: Path, **options: Any) -> list[list[str]]:
    """Return the names of the calls that each rank makes for a save into a copy of a prepared folder."""
    made = [Calls() for _ in range(RANKS)]
    with copied(old) as folder:
        assert save(folder, NEW, files=made, **options) == [True]
    return [files.made for files in made]


class copied:
    """A copy of a folder, for as long as the `with` lasts."""

    def __init__(self, folder: Path) -> None:
        self.old = folder

    def __enter__(self) -> Path:
        self.folder = Path(tempfile.mkdtemp(dir=self.old.parent)) / "run"
        shutil.copytree(self.old, self.folder)
        return self.folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder.parent)


# One call -------------------------------------------------------------------------------------------------------------


def failed_at(old: Path, rank: int, k: int, **options: Any) -> None:
    """Fail at a rank's k-th call. Raise AssertionError unless `save` says rightly whether there is a checkpoint, and
    what is left is whole, now and after another save."""
    for steps in ([NEW], [NEW, NEXT]):
        files = [Calls(k if other == rank else 0, fail) for other in range(RANKS)]
        with copied(old) as folder:
            saved, *others = save(folder, *steps, files=files, **options)
            if others:
                assert others == [True] and loaded(folder) == NEXT
                shutil.rmtree(folder / f"step-{NEXT}")
            assert loaded(folder) == (NEW if saved else OLD), f"save returned {saved}"
            check(folder)


def killed_at(old: Path, rank: int, k: int, **options: Any) -> None:
    """Let a process with both ranks be killed at a rank's k-th call. Raise AssertionError unless what it leaves is
    whole. Call it in a process without other threads."""
    files = [Calls(k if other == rank else 0, kill) for other in range(RANKS)]
    with copied(old) as folder:
        assert ended(lambda: save(folder, NEW, files=files, **options)) == signal.SIGKILL
        check(folder)


def ended(work: Callable[[], Any]) -> int:
    """Do the work in a child of this process. Return the signal that ended it, or 0."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(1)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def check(folder: Path) -> None:
    """Raise AssertionError unless the old or the new step is there, and the next save leaves whole checkpoints only."""
    found = loaded(folder)
    assert found in (OLD, NEW), f"step {found}"
    assert save(folder, NEXT) == [True]
    assert loaded(folder) == NEXT
    assert sorted(it.name for it in folder.iterdir()) == [".lock", *sorted(f"step-{v}" for v in (found, NEXT))]
    for step in folder.glob("step-*"):
        files = [f"rank-{rank}-of-{RANKS}.safetensors" for rank in range(RANKS)]
        assert sorted(it.name for it in step.iterdir()) == ["index.json", *files]
    shutil.rmtree(folder / f"step-{NEXT}")
    assert loaded(folder) == found, "it was overwritten"


def read_at(old: Path, k: int, instead: Callable[[], None]) -> None:
    """Fail, or be killed, at the k-th read of a load: nothing changes, on the disk or in the trainer."""
    if instead is kill:
        assert ended(lambda: loaded(old, Calls(k, kill))) == signal.SIGKILL
    else:
        trainer = marked(world := threads.world_of_one(), 3)
        try:
            load(trainer, *newest(old, world), Calls(k, fail))
        except UserError as error:
            assert str(old) in str(error) and os.strerror(errno.EIO) in str(error)
        else:
            raise AssertionError("the load did not fail")
        assert values(trainer) == {3}
    assert loaded(old) == OLD


# All calls ------------------------------------------------------------------------------------------------------------


def every_call(folder: Path, how: str, every: int = 1, **options: Any) -> tuple[int, list[str]]:
    """Try every so manyth call of a save, on each rank, and of a load. Return how many, and what went wrong.

    how: "fail" or "kill". options: of Checkpoints.
    """
    old = prepared(folder)
    at = {"fail": failed_at, "kill": killed_at}[how]
    tries: dict[str, Callable[[], None]] = {}
    for rank, names in enumerate(calls(old, **options)):
        for k in range(1, len(names) + 1, every):
            tries[f"rank {rank}, call {k}, {names[k - 1]}"] = partial(at, old, rank, k, **options)
    loaded(old, counting := Calls())
    instead = {"fail": fail, "kill": kill}[how]
    for k in range(1, len(counting.made) + 1, every):
        tries[f"load, call {k}"] = partial(read_at, old, k, instead)
    wrong = []
    for name, attempt in tries.items():
        try:
            attempt()
        except Exception as error:
            wrong.append(f"{how}, {name}: {type(error).__name__}: {error}")
    return len(tries), wrong
