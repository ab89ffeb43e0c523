"""One rank of a check: `mpirun -n 3 python -m lessons.worker 07.2 exercise.py FOLDER LIMIT`.

Run the exercise's check on the student's function and write the report to FOLDER/rank_R.json. If time runs out, write
where the rank is instead. With --diagnose, one process runs all ranks as threads, for each known wrong solution, and
writes which of them fails like the student's.
"""

import contextlib
import io
import json
import os
import sys
import threading
import time
import traceback
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import minitrain
from minitrain import debug
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator

from .manifest import Exercise, exercises
from .report import Report, crashed, reports_in

ELSEWHERE = "raised elsewhere"
PRINTED = 10  # lines that a student's function may print

Found = dict[int, dict[str, Any]]  # rank -> plain report


def load(path: Path) -> ModuleType:
    """Import the student's file, or a mutant, as a module."""
    spec = spec_from_file_location("exercise", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def examine(world: Communicator, exercise: Exercise, function: Any) -> Report:
    """Run the check."""
    report = Report(world.rank)
    check = getattr(exercise.lesson.module("check"), "check_" + exercise.id.replace(".", "_"))
    check(world, function, report)
    return report


def as_rank(exercise: Exercise, file: Path, folder: Path, limit: float) -> None:
    """Run the check under mpirun or in one process, and write a report."""
    with minitrain.launch() as world:
        printed = io.StringIO()

        def write(report: dict[str, Any]) -> None:
            report["printed"] = printed.getvalue().splitlines()[:PRINTED]
            partial = folder / f"rank_{world.rank}.partial"
            partial.write_text(json.dumps(report), "utf-8")
            partial.replace(partial.with_suffix(".json"))

        def time_is_up() -> None:
            write(crashed(where(sys._current_frames()[watched], file), world.rank, "time"))
            time.sleep(0.5)  # let the others write, too; then the job may end
            os._exit(3)

        watched = threading.main_thread().ident or 0
        timer = threading.Timer(limit, time_is_up)
        timer.daemon = True
        timer.start()
        try:
            with contextlib.redirect_stdout(printed):
                found = examine(world, exercise, getattr(load(file), exercise.function)).plain()
            write(found)
        except (Exception, SystemExit) as error:
            write(raised(error, file, world.rank))
            raise
        timer.cancel()


def as_threads(exercise: Exercise, file: Path, limit: float) -> Found:
    """Run the same check with threads as ranks, in this process."""
    found: Found = {}

    def program(world: Communicator) -> None:
        try:
            found[world.rank] = examine(world, exercise, getattr(load(file), exercise.function)).plain()
        except threads.RankFailed:
            raise
        except (Exception, SystemExit) as error:
            found[world.rank] = raised(error, file, world.rank)
            raise

    # compare what was found before the exception
    with contextlib.suppress(RuntimeError, TimeoutError), debug.enabled():
        threads.run(exercise.ranks, program, timeout=limit)
    return found


def diagnose(exercise: Exercise, found: Found, limit: float) -> str:
    """Return the mistake of the mutant that fails the same claims with the same numbers; empty if none does."""
    if any(name == ELSEWHERE for report in found.values() for name, _ in report["signature"]):
        return ""  # an exception from outside the student's function tells nothing about it
    for mutant in exercise.mutants():
        if mutant.says:
            continue
        same = as_threads(exercise, mutant.path, limit)
        if any(same.get(r, {}).get("signature") for r in found) and all(
            [list(pair) for pair in same.get(r, {}).get("signature", [])] == report["signature"]
            for r, report in found.items()
        ):
            return mutant.mistake
    return ""


def where(frame: FrameType | None, file: Path) -> str:
    """Say what the main thread waits for, and at which line of the student's file."""
    waits, line = "", ""
    while frame is not None:
        code = frame.f_code
        if Path(code.co_filename).parent.name == "comm" and "minitrain" in code.co_filename and code.co_name[0] != "_":
            peer = frame.f_locals.get("source", frame.f_locals.get("to"))
            direction = "from" if "source" in frame.f_locals else "to"
            waits = f"waits in {code.co_name}" + (f" {direction} rank {peer}" if peer is not None else "")
        if not line and Path(code.co_filename) == file:
            line = f" ({file.name}:{frame.f_lineno})"
        frame = frame.f_back
    return (waits or "is at work") + line


def raised(error: BaseException, file: Path, rank: int) -> dict[str, Any]:
    """Return the report of a check that raised: the exception, and the line of the student's file."""
    lines = lines_of(error, file)
    name = "raised" if lines and lines[-1].name != "<module>" else ELSEWHERE
    return crashed(explain(error, file), rank, name, type(error).__name__)


def explain(error: BaseException, file: Path) -> str:
    """Describe the exception and the line of the student's file that it comes from."""
    what = "the program was ended (sys.exit)" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
    lines = lines_of(error, file)
    return f"{what} at {file.name}:{lines[-1].lineno}: {lines[-1].line}" if lines else what


def lines_of(error: BaseException, file: Path) -> list[traceback.FrameSummary]:
    """Return the lines of the student's file that the exception passed through."""
    return [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]


def main() -> None:
    """Check as one rank, or with --diagnose write the known mistake to FOLDER/cause.json."""
    name, file, folder, limit = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
    exercise = next(e for e in exercises() if e.id == name)
    if "--diagnose" not in sys.argv:
        as_rank(exercise, file, folder, limit)
        return
    (folder / "cause.json").write_text(json.dumps(diagnose(exercise, reports_in(folder), limit)), "utf-8")


if __name__ == "__main__":
    main()
