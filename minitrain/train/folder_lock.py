"""The lock of a folder: only one run at a time writes in it."""

import contextlib
import os
import socket
from pathlib import Path
from typing import IO

from ..errors import UserError

LOCK = ".lock"


def lock(folder: Path, cure: str) -> IO[str]:
    """Lock a folder until the returned file is closed, or the process ends.

    On a system or a shared disk without locks, continue without one. Raise UserError, which ends in `cure`, if another
    run holds the lock, and OSError if the file cannot be opened.
    """
    file = (folder / LOCK).open("a+", encoding="utf-8")
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = file.read(200).strip() or "another process"
            file.close()
            raise UserError(
                f"a run is writing in {folder} now ({who}); wait until it ends, or choose another folder{cure}"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
    return file


def unlock(file: IO[str]) -> None:
    """Release the lock."""
    with contextlib.suppress(OSError):  # the disk is full: the lock's text cannot be written
        file.close()
