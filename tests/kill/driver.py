"""`minitrain`, which kills itself during a save, and records each complete one.

    python -m tests.kill.driver RECORD RANK SAVE rename 2 train --save-every 2 ...

In save SAVE, or the first one after it that gets so far, rank RANK is killed before the second rename: SIGKILL. A write
is first half done. If SAVE is 0, nothing is killed. RECORD gets a line for each complete checkpoint, and for the kill.
"""

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minitrain.cli import main
from minitrain.commands import run_checkpoints
from minitrain.environment import launched
from minitrain.train.checkpoints import Checkpoints
from minitrain.train.tensor_file import Files

CALLS = ("create", "write", "sync", "rename", "unlink", "make_folder", "remove_folder", "sync_folder")
KILLED = "killed:"


class DeadlyFiles(Files):
    """Files that count the calls of a save, and kill the process at one of them."""

    def __init__(self, record: Path, rank: int, save: int, name: str, call: int) -> None:
        self.record, self.rank, self.save, self.name, self.call = record, rank, save, name, call
        self.saves = 0
        self.calls: Counter[str] = Counter()  # of the current save

    def begin(self) -> None:
        """Count a save."""
        self.saves += 1
        self.calls.clear()

    def count(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Count a call; kill the process if it is the one."""
        self.calls[name] += 1
        if not self.save or self.saves < self.save or (name, self.calls[name]) != (self.name, self.call):
            return
        if launched()[1] == self.rank:
            if name == "write":
                file, data = arguments
                os.write(file, memoryview(data)[: len(data) // 2])
            self.note(f"{KILLED} rank {self.rank} at {name} {self.call} of save {self.saves}")
            os.kill(os.getpid(), signal.SIGKILL)

    def note(self, line: str) -> None:
        """Add a line to the record."""
        with self.record.open("a") as file:
            file.write(f"{line}\n")


def counted(name: str) -> Callable[..., Any]:
    """Return the method of this name, with each call counted."""

    def method(self: DeadlyFiles, *arguments: Any) -> Any:
        self.count(name, arguments)
        return getattr(Files, name)(self, *arguments)

    return method


for each in CALLS:
    setattr(DeadlyFiles, each, counted(each))


def recorded(files: DeadlyFiles) -> type[Checkpoints]:
    """Return checkpoints that use these files, and record on rank 0 which ones are complete."""

    class Recorded(Checkpoints):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "files": files})

        def save(self, *arguments: Any) -> bool:
            files.begin()
            return super().save(*arguments)

        def _complete(self, *arguments: Any) -> bool:
            done = super()._complete(*arguments)
            if done and self.world.rank == 0 and self.last is not None:
                files.note(self.last.name)
            return done

    return Recorded


if __name__ == "__main__":
    record, rank, save, name, call, *command = sys.argv[1:]
    files = DeadlyFiles(Path(record), int(rank), int(save), name, int(call))
    run_checkpoints.Checkpoints = recorded(files)  # type: ignore[misc]
    sys.exit(main(command))
