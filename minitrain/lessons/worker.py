"""One rank of a check: `mpirun -n 3 python -m minitrain.lessons.worker 07.2 exercise.py FOLDER LIMIT`.

Run the exercise's check on the student's function and write the report to FOLDER/rank_R.json. If time runs out, write
where the rank is instead. With --threads, one process runs all ranks as threads and writes all reports, for notebooks.
With --diagnose, it does so for each known wrong solution, and writes which of them fails like the student's.
With --apart, the student's functions run in other processes, which never see the check: see apart.py.
"""

import contextlib
import json
import os
import re
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, cast

from .. import debug
from ..comm import threads
from ..comm.communicator import Communicator
from ..errors import UserError
from ..runtime.launch import launch
from . import apart
from .apart import Nursery
from .manifest import Exercise, exercises
from .report import ELSEWHERE, FLOOD, Report, Reports, crashed, reports_in, shortened
from .student import Printed, frame_in, load


def examine(world: Communicator, exercise: Exercise, function: Any, report: Report | None = None) -> Report:
    """Run the check."""
    report = report or Report(world.rank)
    check = getattr(exercise.lesson.module("check"), "check_" + exercise.id.replace(".", "_"))
    check(world, function, report)
    return report


def function_in(file: Path, exercise: Exercise, nursery: Nursery | None = None) -> Any:
    """Return the student's function, which runs in this process unless there is a nursery."""
    return getattr(load(file), exercise.function) if nursery is None else nursery.function(exercise, file)


def as_rank(exercise: Exercise, file: Path, folder: Path, limit: float) -> None:
    """Run the check under mpirun or in one process, and write a report."""
    with launch() as world:
        printed, made, leave = Printed(), Report(world.rank), os._exit

        def write(report: dict[str, Any]) -> None:
            report.update(printed=printed.lines(), remarks=made.remarks)
            partial = folder / f"rank_{world.rank}.partial"
            partial.write_text(json.dumps(report), "utf-8")
            partial.replace(partial.with_suffix(".json"))

        def time_is_up() -> None:
            write(crashed(standing(watched, file, printed), world.rank, "time"))
            time.sleep(0.5)  # let the others write, too; then the job may end
            leave(3)

        def told_to_leave(status: int) -> None:
            """Take the place of os._exit, which would end this rank without a word."""
            if line := line_of(sys._getframe(), file):
                write(crashed(f"the program was ended (os._exit){line}", world.rank, ELSEWHERE))
                leave(3)  # whatever the status: 0 would let the other ranks wait
            leave(status)

        watched = threading.main_thread().ident or 0
        timer = threading.Timer(limit, time_is_up)
        timer.daemon = True
        timer.start()
        try:
            os._exit = told_to_leave  # type: ignore[assignment]
            with contextlib.redirect_stdout(cast(TextIO, printed)):
                found = examine(world, exercise, function_in(file, exercise), made).plain()
            write(found)
        except (Exception, SystemExit) as error:
            write(raised(error, exercise, file, world.rank))
            raise
        finally:
            os._exit = leave
        timer.cancel()


def all_ranks(exercise: Exercise, file: Path, folder: Path, limit: float, nursery: Nursery | None = None) -> None:
    """Run the check with threads as ranks, and write their reports."""
    printed, found = Printed(), Reports()

    def write() -> None:
        for rank, report in list(found.items()):
            text = json.dumps({**report, "printed": printed.lines()})
            (folder / f"rank_{rank}.json").write_text(text, "utf-8")

    def time_is_up() -> None:
        running = {thread.name: thread.ident for thread in reversed(threading.enumerate())}  # outer ranks
        for rank in range(exercise.ranks):
            if rank not in found and f"rank {rank}" in running:
                found[rank] = crashed(standing(running[f"rank {rank}"] or 0, file, printed), rank, "time")
        write()
        os._exit(3)

    timer = threading.Timer(limit, time_is_up)
    timer.daemon = True
    timer.start()
    with contextlib.redirect_stdout(cast(TextIO, printed)):
        as_threads(exercise, file, limit + 1, found, nursery)
    timer.cancel()
    write()


def as_threads(
    exercise: Exercise, file: Path, limit: float, found: Reports | None = None, nursery: Nursery | None = None
) -> Reports:
    """Run the same check with threads as ranks, in this process. found: gets each report as soon as it is made."""
    found = Reports() if found is None else found

    def program(world: Communicator) -> None:
        try:
            found[world.rank] = examine(world, exercise, function_in(file, exercise, nursery)).plain()
        except threads.RankFailed:
            raise
        except (Exception, SystemExit) as error:
            found[world.rank] = raised(error, exercise, file, world.rank)
            raise

    # compare what was found before the exception
    with contextlib.suppress(RuntimeError, TimeoutError), debug.enabled():
        threads.run(exercise.ranks, program, timeout=limit)
    return found


def diagnose(exercise: Exercise, found: Reports, limit: float) -> str:
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


def standing(thread: int, file: Path, printed: Printed) -> str:
    """Say what a rank's thread does, and whether it has printed a lot."""
    told = what_it_does(thread, file)
    return told + (f", after printing {printed.size:,} characters" if printed.size > FLOOD else "")


def what_it_does(thread: int, file: Path) -> str:
    """Say what a rank's thread does, or the student's process that it waits for; and show what that has printed."""
    if (process := apart.waiting.get(thread)) is None:
        return where(sys._current_frames().get(thread), file)
    if (answer := process.where()) is None:
        return "says nothing (stuck in a call outside of Python?)"
    line, text, size = answer
    apart.show(text, size)
    return f"is at work ({file.name}:{line})" if line else where(sys._current_frames().get(thread), file)


def where(frame: FrameType | None, file: Path) -> str:
    """Say what the rank's thread waits for, and at which line of the student's file."""
    waits, line = "", line_of(frame, file)
    while frame is not None:
        code = frame.f_code
        communicates = Path(code.co_filename).parent.name == "comm" and "minitrain" in code.co_filename
        if communicates and code.co_name[0] != "_" and code.co_name != "body":  # body: where a rank's thread begins
            peer = frame.f_locals.get("source", frame.f_locals.get("to"))
            direction = "from" if "source" in frame.f_locals else "to"
            waits = f"waits in {code.co_name}" + (f" {direction} rank {peer}" if peer is not None else "")
        frame = frame.f_back
    return (waits or "is at work") + line


def line_of(frame: FrameType | None, file: Path) -> str:
    """Return the line of the student's file that is running, as " (exercise.py:3)"; "" if none is."""
    found = frame_in(frame, str(file))
    return f" ({file.name}:{found.f_lineno})" if found is not None else ""


def raised(error: BaseException, exercise: Exercise, file: Path, rank: int) -> dict[str, Any]:
    """Return the report of a check that raised: the exception, and the line of the student's file."""
    lines = lines_of(error, file)
    name = "raised" if lines and lines[-1].name != "<module>" else ELSEWHERE
    return crashed(shortened(explain(error, file, exercise.function)), rank, name, type(error).__name__)


def explain(error: BaseException, file: Path, function: str = "the function") -> str:
    """Describe the exception and the line of the student's file that it comes from.

    If it comes from the library or the check, the function has returned: they cannot go on with its result.
    """
    if isinstance(error, apart.Ended):
        return str(error)
    what = "the program was ended (sys.exit)" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
    what = re.sub(r"<(?:[\w.]+\.)?(\w+) object at 0x\w+>", r"a \1", what)
    if lines := lines_of(error, file):
        between = "\n" if "\n" in what else " "
        return f"{what}{between}at {file.name}:{lines[-1].lineno}: {lines[-1].line}"
    if isinstance(error, UserError):
        return what  # such as that the ranks make different calls: it says itself what is wrong
    if isinstance(error, TypeError) and str(error).startswith(f"{function}("):
        return f"{what}; the arguments must stay those of the exercise"
    *_, last = traceback.extract_tb(error.__traceback__)
    at = f"{Path(last.filename).name}:{last.lineno}: {last.line}"
    return f"the checker cannot go on with what {function} returned: {what} at {at}"


def lines_of(error: BaseException, file: Path) -> list[traceback.FrameSummary]:
    """Return the lines of the student's file that the exception passed through."""
    return [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]


def main() -> None:
    """Check as one rank, with --threads or --apart as all; with --diagnose write the known mistake to a file."""
    name, file, folder, limit = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
    nursery = apart.start(file) if "--apart" in sys.argv else None
    exercise = next(e for e in exercises() if e.id == name)
    if "--diagnose" in sys.argv:
        (folder / "cause.json").write_text(json.dumps(diagnose(exercise, reports_in(folder), limit)), "utf-8")
        return
    os.environ["HOME"] = str(folder)  # only now: Python looks for packages in the home folder
    if nursery or "--threads" in sys.argv:
        all_ranks(exercise, file, folder, limit, nursery)
    else:
        as_rank(exercise, file, folder, limit)


if __name__ == "__main__":
    main()
