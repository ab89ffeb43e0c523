"""Check an exercise: the ranks run in their own processes and write their reports to files.

This process never uses MPI, so student code cannot hang it: a check that exceeds its time limit is killed, after each
rank has reported where it was. The ranks run in a scratch folder, on a copy of the student's file (confined.py).
"""

import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import gettempdir
from threading import Event
from typing import Any

from ..runtime.mpirun import find_mpirun
from . import confined
from .confined import Output
from .manifest import Exercise
from .predictions import mistaken
from .report import ELSEWHERE, FLOOD, Reports, reports_in, shortened
from .stubs import definition, was_given

LIMIT = 8.0  # seconds for a check, on each rank
START = 8.0  # seconds for mpirun and the imports
LARGEST = 10**6  # bytes of exercise.py
LEFT = "the function as you got it: its mistake is still there"  # no hint, if the mistake is a student's own
CAUSES: dict[tuple[str, str], str] = {}  # exercise and the ranks' signatures -> cause, as found before


@dataclass(frozen=True)
class Verdict:
    """Result of a check. state: "passed", "failed", or "open" if the function still raises NotImplementedError."""

    exercise: Exercise
    state: str
    sentence: str = ""
    cause: str = ""  # the known mistake that fails the same way
    remarks: tuple[str, ...] = ()  # what the checker noticed while the function ran
    printed: tuple[str, ...] = ()  # printed by the function on the reported rank, the first lines
    late: bool = False  # it failed because it did not end in time


def check(
    exercise: Exercise,
    file: Path,
    as_given: bool = False,
    threads: bool = False,
    limit: float | None = None,
    stop: Event | None = None,
    apart: bool = False,
) -> Verdict:
    """Check the function in `file`.

    as_given: run a function with mistakes even if it is unchanged. threads: the ranks are threads of one process, which
    needs no mpirun. limit: seconds for each rank, LIMIT by default. stop: if set by another thread, the check ends
    early and fails. apart: run the function in other processes than the check, if the exercise allows that: one for
    each rank, whose communication is that of threads in the check's process.
    """
    name = f"{file.parent.name}/{file.name}"
    try:
        text = read(file)
        function = definition(text, exercise.function)
    except SyntaxError as error:
        line, text = f":{error.lineno}" * bool(error.lineno), (error.text or "").strip()
        return Verdict(exercise, "failed", shortened(f"{file.name}{line}: {error.msg}: {text}", 300))
    except (LookupError, OSError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error
        return Verdict(exercise, "failed", f"{name}: {reason}; lessons reset {exercise.id} puts it back")
    except (ValueError, RecursionError, MemoryError) as error:  # not UTF-8, a NUL, or nested too deeply
        return Verdict(exercise, "failed", f"{name} is not Python code: {str(error) or 'nested too deeply'}")
    unwritten = _unwritten(exercise, function)
    if told := mistaken(exercise, text, late=not unwritten):
        return Verdict(exercise, "failed", told)
    if unwritten:
        return Verdict(exercise, "open", "not written yet")
    if not as_given and was_given(exercise, function):
        return Verdict(exercise, "open", "as it was given, with its mistakes")
    limit = limit or LIMIT
    with confined.scratch() as folder:
        how = "--apart" if apart and not exercise.together else "--threads" if threads else ""
        output = _run(exercise, file.resolve(), folder, limit, stop, how)
        verdict = _verdict(exercise, folder, output, limit, stop)
    own = exercise.numbers and exercise.planted and verdict.cause == exercise.mutant(exercise.planted).mistake
    return replace(verdict, cause=LEFT) if own else verdict


def untouched(exercise: Exercise, text: str) -> bool:
    """Return whether the function in this text is as the student got it. Raise LookupError if there is none."""
    function = definition(text, exercise.function)
    return _unwritten(exercise, function) or was_given(exercise, function)


def _unwritten(exercise: Exercise, function: str) -> bool:
    return f'raise NotImplementedError("{exercise.id}")' in function


def read(file: Path) -> str:
    """Return the text of a student's file. Raise OSError for a file that is none, or too large."""
    if not file.is_file() and file.exists():
        raise OSError(f"not a file, but a {'folder' if file.is_dir() else 'pipe or a device'}")
    if file.stat().st_size > LARGEST:
        raise OSError(f"{file.stat().st_size:,} bytes; an exercise.py has at most {LARGEST:,}")
    return file.read_text("utf-8")


def _verdict(exercise: Exercise, folder: Path, output: Output, limit: float, stop: Event | None) -> Verdict:
    """Build the verdict from the ranks' reports."""
    reports = reports_in(folder)
    fate = "says nothing (stuck in a call outside of Python?)" if output.late else "has ended (a crash of Python?)"
    gone = [f"rank {rank} {fate}" for rank in range(exercise.ranks) if rank not in reports]
    wrong = [report for report in reports.values() if not report["ok"]]
    if not wrong and not gone:
        return Verdict(exercise, "passed", printed=tuple(reports[0]["printed"]))
    if output.crowded:
        return Verdict(exercise, "failed", "your function started too many processes: the check was ended")
    late = [r for r in wrong if _fails(r, "time")]
    if late or (output.late and not wrong):
        ranks = [f"rank {r['rank']} {r['failure']}" for r in late]
        flood = [f"{output.size:,} characters came past sys.stdout"] if output.size > FLOOD else []
        sentence = "\n".join([f"not done after {limit:.0f} s (slow, or stuck):", *ranks, *gone, *flood])
        return _failed(exercise, sentence, *late[:1], late=True)
    if not wrong:
        said = output.end.strip() or "no output"
        ended = ", ".join(gone) if reports else "a crash of Python, on one of the ranks?"
        return Verdict(exercise, "failed", f"the check ended without a result: {ended}\n{said}")
    first = next((r for r in wrong if not _fails(r, ELSEWHERE)), wrong[0])
    return _failed(exercise, first["failure"], first, cause=_cause(exercise, reports, limit, stop))


def _fails(report: dict[str, Any], name: str) -> bool:
    return bool(report["signature"]) and report["signature"][0][0] == name


def _failed(
    exercise: Exercise, sentence: str, *reports: dict[str, Any], cause: str = "", late: bool = False
) -> Verdict:
    """Return the verdict with what was noticed and printed on the rank of this report, if there is one."""
    remarks, printed = [tuple(line for r in reports for line in r[key]) for key in ("remarks", "printed")]
    return Verdict(exercise, "failed", sentence, cause, remarks, printed, late)


def _cause(exercise: Exercise, reports: Reports, limit: float, stop: Event | None) -> str:
    """Return the known mistake that fails as the ranks' reports do; empty if none does, or none in time.

    It follows from their signatures, which students of a class share.
    """
    if any(_fails(report, ELSEWHERE) for report in reports.values()):
        return ""
    signs = exercise.id, json.dumps([(rank, report["signature"]) for rank, report in reports.items()])
    if signs in CAUSES:
        return CAUSES[signs]
    with confined.scratch() as folder:  # not the student's: anything may be there
        for rank, report in reports.items():
            (folder / f"rank_{rank}.json").write_text(json.dumps(report), "utf-8")
        confined.run([*_worker(exercise, folder, folder, limit), "--diagnose"], folder, debugging(), 60, stop=stop)
        with suppress(FileNotFoundError, ValueError):  # it was ended
            CAUSES[signs] = str(json.loads((folder / "cause.json").read_text("utf-8")))
    return CAUSES.get(signs, "")


def _run(exercise: Exercise, file: Path, folder: Path, limit: float, stop: Event | None, how: str) -> Output:
    """Run the ranks on a copy of the file until all have reported, or the time is up. Return their output.

    how: the option with which one process runs all ranks; "" for a process for each.
    """
    copy = folder / confined.DEEP / file.name
    copy.write_bytes(file.read_bytes())
    copy.chmod(0o444)

    def over() -> bool:
        return all((folder / f"rank_{rank}.json").exists() for rank in range(exercise.ranks))

    worker = _worker(exercise, copy, folder, limit)
    command = [*worker, how] if how else mpirun(exercise.ranks) + worker
    return confined.run(command, folder, debugging(), limit + START, over, stop)


def _worker(exercise: Exercise, file: Path, folder: Path, limit: float) -> list[str]:
    return [sys.executable, "-m", "minitrain.lessons.worker", exercise.id, str(file), str(folder), str(limit)]


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
