"""Grades: check the exercises of a class again, and report the results as a table and in files.

    lessons grade class/*/ --lessons 06,07 --totals points.csv --csv rows.csv

Stored results are not trusted; a folder only tells whether the student looked at a solution. What the students have
handed in is read before any of it is run, so no student's code can change another's.
"""

import argparse
import io
import math
import signal
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ..environment import cores
from ..errors import UserError
from .check import LIMIT, Verdict, check, mpirun
from .exports import CUT, FORMS, VISIBILITIES, Row, by_lesson, by_student, note, number, points, printable
from .grade_files import STUDENT, targets, write
from .identities import compared, identified
from .manifest import Exercise
from .numbers import individual, salt_of, salt_options
from .report import LONGEST, shortened
from .submissions import Submission, folders, receive

PATIENCE = 60.0  # seconds that a folder may spend in checks that do not end in time
AGAIN = 2 * LIMIT  # seconds for each rank in the second try of such a check: the machine may have been busy
ABOUT = """Check the exercises of one student or of a class anew, and write the results.

An exercise is right or wrong; a folder gets the points of those that are
right. One folder prints a line for each exercise, several a line for each
student, in the order given, as soon as it is known. Plain files among FOLDERS
are skipped, and a folder without exercises gets 0 points and the reason.
"""
MORE = """A check may take 8 seconds. One that does not end is tried again at the end
with 16, in case the machine was busy. Once checks that did not end have taken
60 seconds, the rest of the folder is not checked. A folder whose checks end is
never stopped, however slow it is.

Each check runs in a scratch folder, on a copy of exercise.py, with limits on
memory, files and processes, and all that it has started is ended. In most
exercises the function runs apart, and sees neither the check nor the solution.
It runs as you, though: to grade code that you do not trust, use a container.
The library contains the solutions of the exercises of kind I, and students can
copy them, so for marks you may want to count only P and B: --weight I=0.

Folders made by `lessons init --student ID --salt SALT` have their own numbers.
With the same salt, each is checked with the numbers of its ID (or, if it has
none, of the folder's name), whatever else it contains. A remark tells if it has
the numbers of another ID, an ID that is not its name, the ID of another folder,
or none; and if a wrong prediction is the right one of another student. Without
a salt, the numbers in the folders are believed.

The exit status is 0 if the folders were graded, whatever their points (for a
single folder: if all exercises passed, otherwise 1), and 2 if something was
wrong with the command or a file.
"""
HELP = {
    "json": "all results as JSON: a list with an object for each exercise of each student",
    "csv": "the same as a table: a line for each exercise of each student",
    "totals": "a table (CSV) with a line for each student: points in total and by lesson",
    "junit": "JUnit's XML: a suite for each student",
    "gradescope": "Gradescope's results.json, for one student",
    "classroom": "Classroom 50's result.json, for one student",
}


def options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lessons grade`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = ABOUT, MORE
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a student's folder")
    parser.add_argument("--lessons", default="", metavar="06,07.2", help="only these lessons or exercises")
    parser.add_argument(
        "--weight", action="append", default=[], metavar="07=2",
        help="multiply the points of a lesson (07), an exercise (07.3) or a kind (I: write a function, P: predict, "
        "B: fix mistakes); may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, default=max(1, cores() // 2), metavar="N",
        help="folders to check at a time (default: one for two cores, %(default)s here); more may make checks too slow",
    )  # fmt: skip
    salt_options(parser, "verify the students' own numbers with the salt of `lessons init`")
    for form in FORMS:
        parser.add_argument(f"--{form}", type=Path, metavar="FILE", help=HELP[form])
    parser.add_argument(
        "--visibility", default="visible", choices=VISIBILITIES,
        help="who sees the tests on Gradescope, and when (default: visible)",
    )  # fmt: skip
    parser.add_argument_group("files", f"A path with {STUDENT} in it is written once for each student.")


@dataclass
class Grader:
    """What all checks of a grading share."""

    chosen: list[Exercise]
    weights: dict[str, float]
    stop: Event = field(default_factory=Event)  # if set, the checks end early
    progress: Progress = field(default_factory=lambda: Progress(disable=True))

    def grade(self, submission: Submission) -> list[Row]:
        """Check one student's exercises. An error of the grader costs the student everything, but not the class."""
        try:
            checked = self._check_all(submission)
        except Exception as error:
            if self.stop.is_set():
                raise
            reason = f"the grader failed: {type(error).__name__}: {error}"
            print(f"lessons: {printable(submission.student)}: {printable(reason)}", file=sys.stderr)
            checked = {exercise.id: (Verdict(exercise, "failed", reason), 0.0) for exercise in self.chosen}
        return [self._row(submission, *checked[exercise.id]) for exercise in self.chosen]

    def _check_all(self, submission: Submission) -> dict[str, tuple[Verdict, float]]:
        """Return exercise -> verdict and seconds. Try what was late again at the end, as long as there is time."""
        checked: dict[str, tuple[Verdict, float]] = {}

        def spent() -> float:
            return sum(seconds for verdict, seconds in checked.values() if verdict.late)

        with TemporaryDirectory(prefix="lessons-grade-") as name:
            for exercise in self.chosen:
                if spent() < PATIENCE:
                    checked[exercise.id] = self._check(submission, exercise, Path(name), LIMIT)
                else:
                    checked[exercise.id] = Verdict(exercise, "failed", CUT.format(spent())), 0.0
                self._advance()
            for exercise in self.chosen:
                before, seconds = checked[exercise.id]
                if before.late and spent() < PATIENCE:
                    verdict, more = self._check(submission, exercise, Path(name), AGAIN)
                    checked[exercise.id] = verdict, seconds + more
        return checked

    def _advance(self) -> None:
        for task in self.progress.task_ids:
            self.progress.advance(task)

    def _check(self, submission: Submission, exercise: Exercise, folder: Path, limit: float) -> tuple[Verdict, float]:
        """Check one exercise. Return the verdict and how many seconds that took."""
        began, lesson = time.monotonic(), exercise.lesson
        if self.stop.is_set():
            raise KeyboardInterrupt
        if lesson.number in submission.missing:
            return Verdict(exercise, "failed", submission.missing[lesson.number]), 0.0
        file = folder / lesson.folder.name / "exercise.py"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(submission.files[lesson.number])
        own = individual(exercise, submission.numbers)
        return check(own, file, limit=limit, stop=self.stop, apart=True), time.monotonic() - began

    def _row(self, submission: Submission, verdict: Verdict, seconds: float) -> Row:
        exercise = verdict.exercise
        passed = verdict.state == "passed"
        of = round(exercise.points * _factor(exercise, self.weights), 6)
        return Row(
            submission.student, exercise.id, exercise.function, exercise.kind, passed, of if passed else 0.0, of,
            shortened(verdict.sentence, 4 * LONGEST), verdict.cause, exercise.id in submission.shown,
            submission.digest(exercise.lesson.number), round(seconds, 3), submission.remark,
        )  # fmt: skip


def grade(arguments: argparse.Namespace, chosen: list[Exercise]) -> int:
    """Run `lessons grade` for the chosen exercises. Return the exit status. Raise UserError for a mistake in it."""
    found, skipped = folders(arguments.folders)
    weights, salt = _weights(arguments.weight, chosen), salt_of(arguments)
    if arguments.classroom and any((exercise.points * _factor(exercise, weights)) % 1 for exercise in chosen):
        raise UserError("--classroom takes whole points only, and with these weights some are not")
    files = targets({form: getattr(arguments, form) for form in FORMS}, list(found))
    if arguments.jobs < 1:
        raise UserError(f"--jobs is {arguments.jobs}; it must be a number of folders, 1 or more")
    mpirun(max(exercise.ranks for exercise in chosen))  # exits if there is none
    for path in skipped:
        print(f"lessons: {printable(str(path))} is a plain file: skipped", file=sys.stderr)
    lessons = list(dict.fromkeys(exercise.lesson for exercise in chosen))
    received = [receive(student, folder, lessons) for student, folder in found.items()]
    submissions = compared(identified(received, salt), chosen)
    rows: list[Row] = []
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the files get what there is
    try:
        for of_student in graded(submissions, Grader(chosen, weights), arguments.jobs):
            rows += of_student
            print(_line(of_student, found) if len(found) > 1 else _sheet(of_student), flush=True)
    except KeyboardInterrupt:
        print(f"lessons: interrupted: {len(by_student(rows))} of {len(found)} folders are graded", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        write(files, rows, arguments.visibility)
    if len(found) > 1:
        print(_summary(rows))
        return 0
    return int(any(not row.passed for row in rows))


def graded(submissions: list[Submission], grader: Grader, jobs: int) -> Iterator[list[Row]]:
    """Yield each student's rows in the order of the submissions; `jobs` of them are checked at a time."""
    console = Console(stderr=True)
    grader.progress = Progress(console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal)
    grader.progress.add_task("checking", total=len(submissions) * len(grader.chosen))
    with ThreadPoolExecutor(jobs) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # about the students' code, such as "\d"
        waiting = [pool.submit(grader.grade, submission) for submission in submissions]
        try:
            for future in waiting:
                with grader.progress:  # hidden while a line is printed
                    rows = future.result()
                yield rows
        finally:
            grader.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _weights(given: list[str], chosen: list[Exercise]) -> dict[str, float]:
    """Return lesson, exercise or kind -> factor."""
    keys = {key for exercise in chosen for key in (exercise.kind, exercise.lesson.number, exercise.id)}
    weights = {}
    for text in given:
        key, _, value = text.partition("=")
        key = key if "." in key or not key.isdigit() else key.zfill(2)
        try:
            weights[key] = float(value)
        except ValueError:
            weights[key] = math.nan
        if not 0 <= weights[key] < math.inf:
            raise UserError(f"--weight is {text!r}; write a number of 0 or more after =, as in 07=2 or I=0.5")
        if key not in keys:
            raise UserError(f"--weight is {text!r}; {key!r} is no lesson, exercise or kind of those that are graded")
    return weights


def _factor(exercise: Exercise, weights: dict[str, float]) -> float:
    return math.prod(weights.get(key, 1.0) for key in (exercise.kind, exercise.lesson.number, exercise.id))


def _line(rows: list[Row], students: Iterable[str]) -> str:
    """Return a student's line: the points, in total and by lesson, and what to know about them."""
    width = min(40, max(len(printable(student)) for student in students))
    got, of = points(rows)
    lessons = "".join(f"  {lesson}: {points(of_it)[0]:g}" for lesson, of_it in by_lesson(rows).items())
    remark = note(rows)
    return (
        f"{printable(rows[0].student):<{width}}  {got:>5g} of {of:g} {lessons}{'  ' * bool(remark)}{printable(remark)}"
    )


def _sheet(rows: list[Row]) -> str:
    """Return the table of one student."""
    table = Table("exercise", "function", box=None, pad_edge=False)
    for heading in ("points", "of", "shown"):
        table.add_column(heading, justify="right")
    for row in rows:
        shown = "yes" if row.shown else ""
        table.add_row(row.id, row.function, f"{number(row.points):g}", f"{number(row.of):g}", shown)
    console = Console(width=80, highlight=False, file=io.StringIO())
    with console.capture() as captured:
        console.print(table)
    files = [f"{lesson}: {of_it[0].file}" for lesson, of_it in by_lesson(rows).items() if of_it[0].file]
    got, of = points(rows)
    lines = [
        captured.get() + f"{got:g} of {of:g} points",
        f"SHA-256 of each exercise.py: {', '.join(files) or 'there is none'}",
        printable(note(rows)),
    ]
    return "\n".join(line for line in lines if line)


def _summary(rows: list[Row]) -> str:
    """Return the totals of the class."""
    totals = [points(of_student) for of_student in by_student(rows).values()]
    perfect = sum(got == of for got, of in totals)
    mean = sum(got for got, _ in totals) / len(totals)
    lessons = [
        f"{lesson}: {points(of_it)[0] / len(totals):.1f} of {points(of_it)[1] / len(totals):g}"
        for lesson, of_it in by_lesson(rows).items()
    ]
    return (
        f"\n{len(totals)} students, {perfect} with all points; mean {mean:.1f} of {totals[0][1]:g}\n"
        f"mean by lesson: {', '.join(lessons)}"
    )
