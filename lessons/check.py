"""Check an exercise: the ranks run in their own processes and write their reports to files.

This process never uses MPI, so student code cannot hang it: a check that exceeds its time limit is killed, after each
rank has reported where it was.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from minitrain.runtime.mpirun import find_mpirun

from .manifest import Exercise
from .report import reports_in
from .stubs import place, stub

LIMIT = 8.0  # seconds for a check, on each rank
START = 8.0  # seconds for mpirun and the imports


@dataclass(frozen=True)
class Verdict:
    """Result of a check. state: "passed", "failed", or "open" if the function still raises NotImplementedError."""

    exercise: Exercise
    state: str
    sentence: str = ""
    cause: str = ""  # the known mistake that fails the same way
    printed: tuple[str, ...] = ()  # printed by the function on the reported rank, at most ten lines


def check(exercise: Exercise, file: Path, as_given: bool = False) -> Verdict:
    """Check the function in `file`. as_given: run a function with mistakes even if it is unchanged."""
    try:
        text = file.read_text("utf-8")
        lo, hi = place(text, exercise.function)
    except SyntaxError as error:
        return Verdict(exercise, "failed", f"{file.name}:{error.lineno}: {error.msg}: {(error.text or '').strip()}")
    except (LookupError, OSError) as error:
        cure = f"python -m lessons reset {exercise.id} puts it back"
        reason = error.strerror if isinstance(error, OSError) else error
        return Verdict(exercise, "failed", f"{file}: {reason}; {cure}")
    function = "\n".join(text.splitlines()[lo:hi])
    if f'raise NotImplementedError("{exercise.id}")' in function:
        return Verdict(exercise, "open", "not written yet")
    if exercise.planted and not as_given and function.strip() == stub(exercise).strip():
        return Verdict(exercise, "open", "as it was given, with its mistakes")
    with TemporaryDirectory() as name:
        folder = Path(name)
        output = _run(exercise, file.resolve(), folder)
        return _verdict(exercise, file.resolve(), folder, output)


def _verdict(exercise: Exercise, file: Path, folder: Path, output: str) -> Verdict:
    """Build the verdict from the ranks' reports."""
    reports = list(reports_in(folder).values())
    if len(reports) == exercise.ranks and all(report["ok"] for report in reports):
        return Verdict(exercise, "passed", printed=tuple(reports[0]["printed"]))
    late = [r for r in reports if r["signature"] and r["signature"][0][0] == "time"]
    if late:
        ranks = "".join(f"\nrank {r['rank']} {r['failure']}" for r in late)
        sentence = f"not done after {LIMIT:.0f} s (slow, or stuck for ever):{ranks}"
        return Verdict(exercise, "failed", sentence, printed=tuple(late[0]["printed"]))
    wrong = [report for report in reports if not report["ok"]]
    if not wrong:
        return Verdict(exercise, "failed", f"the check ended without a result: {output[-500:].strip() or 'no output'}")
    known = _cause(exercise, file, folder)
    return Verdict(exercise, "failed", wrong[0]["failure"], known, tuple(wrong[0]["printed"]))


def _cause(exercise: Exercise, file: Path, folder: Path) -> str:
    """Return the known mistake that fails as the ranks' reports do; empty if none does."""
    subprocess.run(_worker(exercise, file, folder) + ["--diagnose"], capture_output=True, timeout=60, env=debugging())
    cause = folder / "cause.json"
    return json.loads(cause.read_text("utf-8")) if cause.exists() else ""


def _run(exercise: Exercise, file: Path, folder: Path) -> str:
    """Start the ranks and wait for them. Return their output."""
    command = mpirun(exercise.ranks) + _worker(exercise, file, folder)
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=debugging(), start_new_session=True,
    )  # fmt: skip
    try:
        return process.communicate(timeout=LIMIT + START)[0]
    except subprocess.TimeoutExpired:
        return ""
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)  # mpirun ends its ranks
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _worker(exercise: Exercise, file: Path, folder: Path) -> list[str]:
    return [sys.executable, "-m", "lessons.worker", exercise.id, str(file), str(folder), str(LIMIT)]


def mpirun(ranks: int) -> list[str]:
    """Return the command prefix that starts `ranks` ranks; empty for one."""
    if ranks == 1:
        return []
    found = find_mpirun()
    if found is None:
        sys.exit("there is no mpirun on this machine: see python -m lessons doctor")
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
