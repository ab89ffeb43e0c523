"""Jobs that a lesson starts to show failures and hangs. A job is ended with all its ranks, whatever they wait for."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ..runtime.mpirun import outside

START = 20.0  # seconds for mpirun and the imports
END = 5.0  # seconds for its ranks to exit once told to


@dataclass(frozen=True)
class Job:
    """Outcome of a job.

    status: None if it had to be ended. seen: its ranks that printed "is process N"; left: those that outlived it.
    """

    status: int | None
    output: str
    seen: int
    left: int


def job(command: list[str], environment: Mapping[str, str], sign: str, seconds: float) -> Job:
    """Run a command, and end it this many seconds after the sign appears in its output."""
    with TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        with output.open("w") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=outside(environment)
            )
        try:
            within(START, lambda: process.poll() is not None or sign in output.read_text("utf-8", "replace"))
            within(seconds, lambda: process.poll() is not None)
            status = process.poll()
        finally:
            end(process)
        said = output.read_text("utf-8", "replace")
    processes = [int(number) for number in re.findall(r"is process (\d+)", said)]
    return Job(status, said, len(processes), clean(processes))


def end(process: subprocess.Popen) -> None:
    """End mpirun, which ends its ranks: they are in process groups of their own."""
    process.terminate()
    try:
        process.wait(END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def clean(processes: list[int]) -> int:
    """Return how many of these processes do not exit promptly, and kill them."""
    within(END, lambda: not any(map(running, processes)))
    left = [process for process in processes if running(process)]
    for process in left:
        os.kill(process, signal.SIGKILL)
    return len(left)


def running(process: int) -> bool:
    """Return whether a process is running. A zombie, not yet reaped by its parent, does not count."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat")
        return not state.exists() or ") Z " not in state.read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def within(seconds: float, question: Callable[[], bool]) -> bool:
    """Return whether the condition becomes true within this time (seconds)."""
    deadline = time.monotonic() + seconds
    while not question():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
