"""Run a command that executes a student's code: within limits, in a scratch folder, and with nothing left of it.

This keeps mistakes and pranks away from the student's folder, the class and the machine. It is no protection against an
attack: the code runs as this user, and can read and write whatever this user can by its absolute path. For code that
you do not trust, use a container.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp
from threading import Event, Thread
from typing import IO

from ..runtime.leftover_files import abandoned
from . import supervisor

KEPT = 500  # characters of the command's output
DEEP = Path(*"abcdefgh")  # the working folder in the scratch folder: "../../x" stays inside
MARK = "MINITRAIN_SCRATCH"  # environment variable of all processes of a command: its scratch folder
GRACE = 2.0  # seconds for the command to exit once its result is there


class Output:
    """What a command writes to standard output and error: its end is kept, the rest is counted."""

    def __init__(self) -> None:
        self.end, self.size = "", 0
        self.late = self.crowded = False  # it was ended: after its time, or because it started too many processes

    def read(self, stream: IO[str]) -> None:
        """Read to the end of the stream."""
        while piece := stream.read(2**12):
            self.end, self.size = (self.end + piece)[-KEPT:], self.size + len(piece)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Make a folder, and remove it with everything that was put there."""
    folder = Path(mkdtemp(prefix="lessons-")).resolve()
    try:
        (folder / DEEP).mkdir(parents=True)
        yield folder
    finally:
        with contextlib.suppress(OSError, RecursionError):
            shutil.rmtree(folder)
        if folder.exists():  # folders without permissions, or nested thousands deep
            subprocess.run(["chmod", "-R", "u+rwx", str(folder)], capture_output=True)
            subprocess.run(["rm", "-rf", str(folder)], capture_output=True)


def run(
    command: list[str],
    folder: Path,
    environment: dict[str, str],
    seconds: float,
    over: Callable[[], bool] = lambda: False,
    stop: Event | None = None,
) -> Output:
    """Run a command in a scratch folder for at most this many seconds. Return its output.

    over: whether its result is there; it then has two seconds to exit. stop: if set, the command is ended.
    """
    began, output = time.time(), Output()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", supervisor.__file__, str(seconds), *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env={**environment, MARK: str(folder), "TMPDIR": str(folder)}, start_new_session=True, cwd=folder / DEEP,
    )  # fmt: skip
    reader = Thread(target=output.read, args=[process.stdout], daemon=True)
    reader.start()
    try:
        _wait(process, seconds + 2 * supervisor.KILL, over, stop or Event())
    finally:
        _end(process, folder, began)
        reader.join(1)  # a process that has escaped may hold the pipe
    output.late = process.returncode == supervisor.LATE
    output.crowded = process.returncode == supervisor.CROWDED
    return output


def _wait(process: subprocess.Popen, seconds: float, over: Callable[[], bool], stop: Event) -> None:
    """Wait until the supervisor exits, or there is no reason to wait for it any longer."""
    deadline, done = time.monotonic() + seconds, False
    while process.poll() is None and time.monotonic() < deadline and not stop.is_set():
        if not done and over():
            deadline, done = min(deadline, time.monotonic() + GRACE), True
        time.sleep(0.02)


def _end(process: subprocess.Popen, folder: Path, began: float) -> None:
    """End the supervisor, which ends the rest. If it was killed itself, end what carries the mark."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(2 * supervisor.KILL)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for _ in range(100):
        left = _marked(folder)
        for each in left:
            with contextlib.suppress(OSError):
                os.kill(each, signal.SIGKILL)
        if not left:
            break
        time.sleep(0.02)
    if process.returncode < 0 or process.returncode in (supervisor.LATE, supervisor.CROWDED, supervisor.STOPPED):
        for path in abandoned():
            with contextlib.suppress(OSError):
                if path.stat().st_mtime >= began:
                    path.unlink()


def _marked(folder: Path) -> list[int]:
    """Return the processes of the command in this scratch folder; none if this system has no /proc."""
    mark, found = f"{MARK}={folder}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found
