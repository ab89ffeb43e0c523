"""The folder of a run. Only one run at a time can use it, and an earlier run's files are never lost silently.

    with RunFolder(world, Path("build/run"), ("log.jsonl", "model.safetensors")) as folder:
        folder.append("log.jsonl", "...")

In a command's default folder, earlier files of the same names are moved aside (build/run.1, build/run.2, ...), so that
the command can be repeated. In a folder named by the user, earlier files are an error unless the user allows
overwriting. Files are moved or replaced when the first file is written: a run that ends earlier changes nothing.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from ..comm.communicator import Communicator
from ..errors import UserError, on_rank_0, reason
from ..train.checkpoint_folder import clear
from ..train.folder_lock import lock, unlock
from ..train.tensor_file import FILES, NewFile, make_folders


class RunFolder:
    """The files `names` in the folder `path`. All ranks open and close it; rank 0 writes."""

    def __init__(
        self,
        world: Communicator,
        path: Path,
        names: Sequence[str],
        overwrite: bool = False,
        aside: bool = False,
        checkpoints: Sequence[str] = (),
        goes_on: bool = False,
    ) -> None:
        """aside: move earlier files aside. overwrite: delete them. checkpoints: the names of folders of checkpoints,
        if there may be any. goes_on: the earlier files are of the run that this one continues, and stay.

        Raise UserError, on all ranks, if the folder cannot be written, if another run is writing in it, or if it has
        earlier files and neither option is set.
        """
        if path == Path():  # from `--out ""` or `--out .`
            raise UserError("the run's folder is the current one, or its name is empty; name a folder for the run")
        self.path, self.names, self.overwrite, self.aside = path, names, overwrite, aside
        self.checkpoints, self.goes_on = checkpoints, goes_on
        self.lock: IO[str] | None = None
        self.begun = False
        self.world = world
        on_rank_0(world, self._claim)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.lock is not None:
            unlock(self.lock)

    def found(self) -> list[str]:
        """Return the names of the files, and of the folders of checkpoints, that exist."""
        return [name for name in (*self.names, *self.checkpoints) if (self.path / name).exists()]

    def _claim(self) -> None:
        try:
            make_folders(self.path)
            for name in self.names:
                if (self.path / name).is_dir():
                    raise IsADirectoryError(0, f"{name} is a folder")
            if not os.access(self.path, os.W_OK):
                raise PermissionError(0, "permission denied")
            self.lock = lock(self.path, " with --out")
        except OSError as error:
            raise UserError(
                f"cannot write in {self.path}: {error.strerror}; choose another folder with --out"
            ) from error
        found = self.found()
        if found and not (self.overwrite or self.aside or self.goes_on):
            unlock(self.lock)
            how = f"--resume {self.path} to continue it, " if set(self.checkpoints).intersection(found) else ""
            raise UserError(
                f"{self.path} has the {listed(found)} of an earlier run; "
                f"give {how}--overwrite to replace it, or another folder with --out"
            )

    def begin(self) -> str:
        """Move or delete earlier files, on rank 0, before the first file is written. Return a message, or "" if none.

        Raise UserError if they cannot be moved or deleted.
        """
        found, self.begun = [] if self.begun or self.goes_on else self.found(), True
        try:
            return self._make_way(found) if found else ""
        except OSError as error:
            raise UserError(
                f"the earlier run in {self.path} cannot be moved or replaced: {reason(error)}; "
                "choose another folder with --out"
            ) from error

    def _make_way(self, found: list[str]) -> str:
        if self.overwrite:
            for name in found:
                if name in self.checkpoints:
                    clear(self.path / name)
                else:
                    (self.path / name).unlink()
            return ""
        number = 1
        while (there := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        there.mkdir()
        for name in found:
            (self.path / name).rename(there / name)
        cure = f"; to continue it: --resume {there}" if set(self.checkpoints).intersection(found) else ""
        return f"the earlier run in {self.path} is now in {there}{cure}"

    def append(self, name: str, line: str) -> None:
        """Append a line to a file, then close the file."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(line)

    def sync(self, name: str) -> None:
        """Wait until a file is on the disk, on rank 0. Raise OSError if that fails."""
        with (self.path / name).open("rb") as file:
            FILES.sync(file.fileno())

    def cut_back(self, name: str, lines: int) -> None:
        """Keep only the first lines of a file, on rank 0. Raise UserError on all ranks if it cannot be written."""
        on_rank_0(self.world, lambda: self._cut_back(self.path / name, lines))

    def _cut_back(self, path: Path, lines: int) -> None:
        try:
            there = path.read_bytes().splitlines(keepends=True) if path.exists() else []
            if len(there) > lines:
                with NewFile(path) as file:
                    FILES.write(file, b"".join(there[:lines]))
        except OSError as error:
            raise UserError(f"{path} cannot be written: {reason(error)}") from error


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence has them: "a, the b and the c"."""
    return " and the ".join([", the ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def write_somewhere(path: Path, write: Callable[[Path], object]) -> tuple[Path, str]:
    """Write a file; if that fails, write it in a new temporary folder, so that finished work is not lost.

    Return (the path written, a message if that is not `path`). Raise UserError if both fail.
    """
    try:
        write(path)
        return path, ""
    except OSError as error:
        message = f"cannot write {path}: {reason(error)}"
    try:
        there = Path(tempfile.mkdtemp(prefix="minitrain-"), path.name)
        write(there)
    except OSError as error:
        raise UserError(f"{message}; nor in the temporary folder {tempfile.gettempdir()}: {reason(error)}") from error
    return there, f"{message}; it is in {there}: move it from there"
