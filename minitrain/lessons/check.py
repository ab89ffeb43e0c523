"""Check an exercise: the ranks run in their own processes and write their reports to files.

This process never uses MPI, so student code cannot hang it: a check that exceeds its time limit is killed, after each
rank has reported where it was.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from threading import Thread
from typing import IO, Any

from ..runtime.mpirun import find_mpirun
from .manifest import Exercise
from .report import ELSEWHERE, FLOOD, reports_in
from .stubs import place, stub

LIMIT = 8.0  # seconds for a check, on each rank
START = 8.0  # seconds for mpirun and the imports
KEPT = 500  # characters of the ranks' other output


@dataclass(frozen=True)
class Verdict:
    """Result of a check. state: "passed", "failed", or "open" if the function still raises NotImplementedError."""

    exercise: Exercise
    state: str
    sentence: str = ""
    cause: str = ""  # the known mistake that fails the same way
    remarks: tuple[str, ...] = ()  # what the checker noticed while the function ran
    printed: tuple[str, ...] = ()  # printed by the function on the reported rank, the first lines


class Output:
    """What the ranks write past the checker, such as to standard error: its end is kept, the rest is counted."""

    def __init__(self) -> None:
        self.end, self.size = "", 0

    def read(self, stream: IO[str]) -> None:
        """Read to the end of the stream."""
        while piece := stream.read(2**12):
            self.end, self.size = (self.end + piece)[-KEPT:], self.size + len(piece)


def check(exercise: Exercise, file: Path, as_given: bool = False, threads: bool = False) -> Verdict:
    """Check the function in `file`.

    as_given: run a function with mistakes even if it is unchanged. threads: the ranks are threads of one process, which
    needs no mpirun.
    """
    try:
        text = file.read_text("utf-8")
        lo, hi = place(text, exercise.function)
    except SyntaxError as error:
        return Verdict(exercise, "failed", f"{file.name}:{error.lineno}: {error.msg}: {(error.text or '').strip()}")
    except (LookupError, OSError) as error:
        cure = f"lessons reset {exercise.id} puts it back"
        reason = error.strerror if isinstance(error, OSError) else error
        return Verdict(exercise, "failed", f"{file}: {reason}; {cure}")
    function = "\n".join(text.splitlines()[lo:hi])
    if f'raise NotImplementedError("{exercise.id}")' in function:
        return Verdict(exercise, "open", "not written yet")
    if exercise.planted and not as_given and function.strip() == stub(exercise).strip():
        return Verdict(exercise, "open", "as it was given, with its mistakes")
    with TemporaryDirectory() as name:
        folder = Path(name)
        output = (_run_threads if threads else _run)(exercise, file.resolve(), folder)
        return _verdict(exercise, file.resolve(), folder, output)


def _verdict(exercise: Exercise, file: Path, folder: Path, output: Output) -> Verdict:
    """Build the verdict from the ranks' reports."""
    reports = reports_in(folder)
    gone = [f"rank {rank} has ended (a crash of Python?)" for rank in range(exercise.ranks) if rank not in reports]
    wrong = [report for report in reports.values() if not report["ok"]]
    if not wrong and not gone:
        return Verdict(exercise, "passed", printed=tuple(reports[0]["printed"]))
    late = [r for r in wrong if _fails(r, "time")]
    if late:
        ranks = [f"rank {r['rank']} {r['failure']}" for r in late]
        flood = [f"{output.size:,} characters came past sys.stdout"] if output.size > FLOOD else []
        sentence = "\n".join([f"not done after {LIMIT:.0f} s (slow, or stuck):", *ranks, *gone, *flood])
        return _failed(exercise, sentence, late[0])
    if not wrong:
        said = output.end.strip() or "no output"
        ended = ", ".join(gone) if reports else "a crash of Python, on one of the ranks?"
        return Verdict(exercise, "failed", f"the check ended without a result: {ended}\n{said}")
    first = next((r for r in wrong if not _fails(r, ELSEWHERE)), wrong[0])
    return _failed(exercise, first["failure"], first, _cause(exercise, file, folder))


def _fails(report: dict[str, Any], name: str) -> bool:
    return bool(report["signature"]) and report["signature"][0][0] == name


def _failed(exercise: Exercise, sentence: str, report: dict[str, Any], cause: str = "") -> Verdict:
    """Return the verdict with what was noticed and printed on the rank of this report."""
    return Verdict(exercise, "failed", sentence, cause, tuple(report["remarks"]), tuple(report["printed"]))


def _cause(exercise: Exercise, file: Path, folder: Path) -> str:
    """Return the known mistake that fails as the ranks' reports do; empty if none does, or none in time."""
    command = [*_worker(exercise, file, folder), "--diagnose"]
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(command, capture_output=True, timeout=60, env=debugging(), cwd=folder)
    cause = folder / "cause.json"
    return json.loads(cause.read_text("utf-8")) if cause.exists() else ""


def _run(exercise: Exercise, file: Path, folder: Path) -> Output:
    """Start the ranks and wait for them. Return their output."""
    return _run_command(mpirun(exercise.ranks) + _worker(exercise, file, folder), folder)


def _run_threads(exercise: Exercise, file: Path, folder: Path) -> Output:
    """Start a process in which the ranks are threads, and wait for it. Return its output."""
    return _run_command([*_worker(exercise, file, folder), "--threads"], folder)


def _run_command(command: list[str], folder: Path) -> Output:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", env=debugging(), start_new_session=True, cwd=folder,
    )  # fmt: skip
    output = Output()
    reader = Thread(target=output.read, args=[process.stdout], daemon=True)
    reader.start()
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(LIMIT + START)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)  # mpirun ends its ranks
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        reader.join(1)  # a process that the student's function has left behind may hold the pipe
    return output


def _worker(exercise: Exercise, file: Path, folder: Path) -> list[str]:
    return [sys.executable, "-m", "minitrain.lessons.worker", exercise.id, str(file), str(folder), str(LIMIT)]


def mpirun(ranks: int) -> list[str]:
    """Return the command prefix that starts `ranks` ranks; empty for one."""
    if ranks == 1:
        return []
    found = find_mpirun()
    if found is None:
        sys.exit("there is no mpirun on this machine: see lessons doctor")
    return [found, "-n", str(ranks)]


def debugging() -> dict[str, str]:
    """Return the environment of a check: debug mode names ranks that make different calls at once."""
    return {**environment(), "MINITRAIN_DEBUG": "1"}


def environment() -> dict[str, str]:
    """Return the environment of a subprocess: root may start Open MPI (in a container); ranks wait less than usual.

    Hypothesis keeps its files out of the student's folder.
    """
    notes = str(Path(gettempdir()) / "minitrain-hypothesis")
    variables = {"MINITRAIN_WAIT": "30", "HYPOTHESIS_STORAGE_DIRECTORY": notes, **os.environ}
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", **variables}
    return variables
