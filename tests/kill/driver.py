"""A training run that kills itself during a save, and records each complete one.

    python -m tests.kill.driver RECORD RANK SAVE CALL train --save-every 2 ...

At call CALL of the file layer in save SAVE, rank RANK is killed (SIGKILL); never, if SAVE is 0.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minitrain.cli import main
from minitrain.commands import run_checkpoints
from minitrain.environment import launched
from minitrain.train.checkpoints import Checkpoints
from minitrain.train.tensor_file import Files

RECORD, RANK, SAVE, CALL = Path(sys.argv[1]), *map(int, sys.argv[2:5])
saves = calls = 0


def counted(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return the method, which kills this process at its call."""

    def counting(*arguments: Any) -> Any:
        global calls
        calls += 1
        if saves == SAVE and calls == CALL and launched()[1] == RANK:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*arguments)

    return counting


class Deadly(Files):
    """A file layer that counts its calls."""


for name in ("create", "write", "sync", "rename", "unlink", "make_folder", "remove_folder", "sync_folder"):
    setattr(Deadly, name, counted(getattr(Files, name)))


class Recorded(Checkpoints):
    """Checkpoints that record on rank 0 which ones are complete."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "files": Deadly()})

    def save(self, *arguments: Any) -> bool:
        global saves, calls
        saves, calls = saves + 1, 0
        return super().save(*arguments)

    def _complete(self, *arguments: Any) -> bool:
        done = super()._complete(*arguments)
        if done and self.world.rank == 0:
            assert self.last is not None
            with RECORD.open("a") as file:
                file.write(f"{self.last.name}\n")
        return done


if __name__ == "__main__":
    run_checkpoints.Checkpoints = Recorded  # type: ignore[misc]
    sys.exit(main(sys.argv[5:]))
