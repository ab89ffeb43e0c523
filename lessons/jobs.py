"""A job that a lesson starts to see it fail or hang. It is ended with all its ranks, whatever they wait for."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from minitrain.runtime.launchers import outside

START = 20.0  # seconds for mpirun and the imports
END = 5.0  # for its ranks, once they are told to end


@dataclass(frozen=True)
class Job:
    """What became of a job.

    status: None when it had to be ended. seen: its ranks that said "is process N"; left: those that outlived it.
    """

    status: int | None
    output: str
    seen: int
    left: int


def job(command: list[str], environment: Mapping[str, str], sign: str, patience: float) -> Job:
    """Runs a command, for at most `patience` seconds after the sign has appeared in its output."""
    with TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        with output.open("w") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=outside(environment)
            )
        try:
            within(START, lambda: process.poll() is not None or sign in output.read_text("utf-8", "replace"))
            within(patience, lambda: process.poll() is not None)
            status = process.poll()
        finally:
            end(process)
        said = output.read_text("utf-8", "replace")
    processes = [int(number) for number in re.findall(r"is process (\d+)", said)]
    return Job(status, said, len(processes), clean(processes))


def end(process: subprocess.Popen) -> None:
    """Ends mpirun, which takes its ranks along. (They are in process groups of their own.)"""
    process.terminate()
    try:
        process.wait(END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def clean(processes: list[int]) -> int:
    """How many of these do not end within a moment; those are killed."""
    within(END, lambda: not any(map(running, processes)))
    left = [process for process in processes if running(process)]
    for process in left:
        os.kill(process, signal.SIGKILL)
    return len(left)


def running(process: int) -> bool:
    """Whether it is at work: one that has ended may stay in the system's list until somebody asks for its status."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat")
        return not state.exists() or ") Z " not in state.read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def within(seconds: float, question: Callable[[], bool]) -> bool:
    """Whether the answer becomes yes in this time."""
    deadline = time.monotonic() + seconds
    while not question():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
