"""Command line for students: exercises, hints, checks, progress."""

import argparse
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

from rich.console import Console

from ..errors import UserError
from ..runtime.output import watching_output
from ..train.progress import Progress
from . import grading, notebook, predictions
from .check import Verdict, check, environment, mpirun
from .folder import Folder, Stop, init
from .manifest import BY_NUMBER, Exercise, Lesson, exercises, written
from .numbers import salt_of, salt_options
from .stubs import entry, replaced, source
from .submissions import STATE

MADE_FOR = """Existing files are left unchanged.

    lessons init class/anna --student anna --salt-file salt.txt

makes a folder with numbers of its own: what to predict, and which mistake to
fix, depend on the ID and the salt. The folder keeps the ID and a hash of both,
never the salt: give that to nobody. `lessons grade --salt-file salt.txt` checks
the folder with the numbers of its ID.
"""


def show_list(folder: Folder) -> int:
    """List each lesson's progress and the next exercise: in the lesson last worked on, or the first open one."""
    missing = [e for e in exercises() if not folder.of(e).get("passed")]
    for lesson in written():
        marks = "".join("." if e in missing else "#" for e in lesson.exercises)
        row = f"{lesson.number} {lesson.title:<14} [{marks}]{'':{6 - len(marks)}}{lesson.sentence}"
        print(row if len(row) <= 80 else row[:77] + "...")
    here = [e for e in missing if e.lesson.number == folder.state.get("lesson")]
    print(f"next: {(here or missing)[0].id}" if missing else "all done")
    return 0


def run(lesson: Lesson, arguments: list[str]) -> int:
    """Run a lesson's experiment and print its command. Raise Stop if -n N, the number of ranks, is not one."""
    ranks = str(lesson.ranks)
    if arguments[:1] == ["-n"] and len(arguments) > 1:
        ranks, arguments = arguments[1], arguments[2:]
    if not ranks.isdigit() or int(ranks) < 1:
        raise Stop(f"-n is {ranks!r}; it must be a number of ranks")
    if {"-h", "--help"} & set(arguments):
        ranks = "1"
    script = str(lesson.folder / "lesson.py")
    typed = ["mpirun", "-n", ranks] if int(ranks) > 1 else []
    print("$ " + " ".join([*typed, "python", script, *arguments]), flush=True)
    return subprocess.run([*mpirun(int(ranks)), sys.executable, script, *arguments], env=environment()).returncode


def write_notebook(lesson: Lesson, path: Path, numbers: str) -> int:
    """Write a lesson's notebook. Raise Stop without nbformat, and if the file exists: it may be a student's work."""
    if path.exists():
        raise Stop(f"{path} exists; give the new one another name with --out")
    try:
        notebook.write(lesson, path, numbers)
    except ImportError as error:
        raise Stop(f"notebooks need nbformat ({error}): pip install nbformat") from None
    print(f"{path} is ready: open it in Jupyter or VS Code")
    return 0


def run_all() -> int:
    """Run every lesson's experiment and list whose receipts agree."""
    failed = []
    for lesson in written():
        if run(lesson, []) != 0:
            failed.append(lesson.number)
        print()
    print(f"{len(written())} lessons; receipts that do not add up: {', '.join(failed) or 'none'}")
    return int(bool(failed))


def check_all(folder: Folder, chosen: list[Exercise], as_given: bool = False) -> int:
    """Check and print. Return 0 if all pass. as_given: run functions with mistakes even if they are unchanged."""
    failed, progress = 0, Progress(lines=sys.stderr)
    for exercise in chosen:
        with progress.task(f"checking {exercise.id}"):
            verdict = check(folder.own(exercise), folder.exercise_file(exercise.lesson), as_given)
        folder.of(exercise)["passed"] = verdict.state == "passed"
        if len(chosen) < len(exercises()):
            folder.state["lesson"] = exercise.lesson.number
        folder.save()
        failed += verdict.state != "passed"
        print_verdict(verdict)
    return int(failed > 0)


def print_verdict(verdict: Verdict, hint: str = "lessons hint") -> None:
    """Print one line; for a failure also the reason, the likely cause, and where to find help: `hint`, the number."""
    exercise = verdict.exercise
    word = {"passed": "[green]ok[/green]", "failed": "[red]FAIL[/red]", "open": "[yellow]open[/yellow]"}[verdict.state]
    Console(highlight=False, force_jupyter=False).print(f"{exercise.id} {exercise.function:<24} {word}")
    if verdict.state == "failed":
        wrap("\n".join([verdict.sentence, *verdict.remarks]))
        if verdict.cause:
            wrap(f"looks like: {verdict.cause}")
        print(f"   hint: {hint} {exercise.id}")
    if verdict.printed:
        print(f"   your function printed{' (on the first failing rank)' if verdict.state == 'failed' else ''}:")
    for line in verdict.printed:
        print(f"      {line}")


def wrap(text: str, indent: str = "   ") -> None:
    """Print a paragraph wrapped to the terminal's width, words unbroken."""
    width = min(Console().width, 100)
    for line in text.splitlines():
        print(textwrap.fill(line, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False))


def hint(folder: Folder, exercise: Exercise) -> int:
    """Print the next hint, or repeat the last one."""
    known, exercise = folder.of(exercise), folder.own(exercise)
    level = min(known.get("hints", 0), len(exercise.hints) - 1)
    known["hints"] = level + 1
    folder.save()
    wrap(f"{exercise.id}, hint {level + 1} of {len(exercise.hints)}: {exercise.hints[level]}", "")
    if level + 1 == len(exercise.hints):
        print(f"that was the last one; lessons show {exercise.id} prints the solution")
    return 0


def show(folder: Folder, exercise: Exercise) -> int:
    """Print the model solution. Record if this comes before the exercise has passed."""
    if not folder.of(exercise).get("passed"):
        folder.of(exercise)["shown"] = True
        folder.save()
    print(source(exercise))  # unwrapped, so that it can be copied
    print(f"# from {exercise.module.__file__}")
    return 0


def reset(folder: Folder, exercise: Exercise) -> int:
    """Restore the stub. The student's version is kept in a separate file."""
    path = folder.exercise_file(exercise.lesson)
    text = path.read_text("utf-8") if path.exists() else folder.initial(exercise.lesson)
    backup = path.with_name(f"exercise-{time.strftime('%Y%m%d-%H%M%S')}.py")
    backup.write_text(text, "utf-8")
    try:
        own = folder.own(exercise)
        path.write_text(replaced(predictions.without(text, own), own, entry(own)), "utf-8")
    except SyntaxError:  # a file that does not parse is reset as a whole
        path.write_text(folder.initial(exercise.lesson), "utf-8")
    folder.of(exercise)["passed"] = False
    folder.save()
    print(f"{exercise.id} is as it was at first; your version is in {backup}")
    return 0


def selftest(folder: Folder) -> int:
    """Check all model solutions, to test the installation. Say first which of the student's files are put aside."""
    solved = {folder.exercise_file(lesson): folder.initial(lesson, solved=True) for lesson in written()}
    given = {folder.initial(lesson) for lesson in written()}
    aside = f"exercise-{time.strftime('%Y%m%d-%H%M%S')}.py"
    yours = [path for path in solved if path.exists() and path.read_text("utf-8") not in {solved[path], *given}]
    print("selftest replaces every exercise.py in this folder by the model solutions.")
    for path in yours:
        print(f"yours is kept: {path} becomes {aside}")
    sys.stdout.flush()
    for path, text in solved.items():
        if path in yours:
            path.rename(path.with_name(aside))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    status = check_all(folder, exercises())
    print("not all passed" if status else f"all {len(exercises())} exercises passed")
    return status


def find_lesson(name: str) -> Lesson:
    """Return the lesson called "7", "07" or "07_data_parallel". Raise Stop if it does not exist."""
    number = name.zfill(2) if name.isdigit() else name.partition("_")[0]
    if number in BY_NUMBER and not BY_NUMBER[number].written:
        raise Stop(f"lesson {number} {BY_NUMBER[number].title} is not yet written")
    if number not in BY_NUMBER:
        raise Stop(f"there is no lesson {name!r}; there are {', '.join(lesson.number for lesson in written())}")
    return BY_NUMBER[number]


def find_exercises(name: str) -> list[Exercise]:
    """Return all exercises of a lesson, or a single one. Raise Stop if it does not exist."""
    if "." not in name:
        return list(find_lesson(name).exercises)
    lesson = find_lesson(name.partition(".")[0])
    found = [e for e in lesson.exercises if e.id.partition(".")[2] == name.partition(".")[2]]
    if not found:
        raise Stop(f"there is no exercise {name!r}; there are {', '.join(e.id for e in lesson.exercises)}")
    return found


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    top = argparse.ArgumentParser(prog="lessons", description=__doc__)
    top.add_argument("--dir", type=Path, default=Path(), help="your folder (default: the one you are in)")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, argument: str = "", **options: object) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        if argument:
            made.add_argument(argument, **options)  # type: ignore[arg-type]
        return made

    made = command("init", "make a folder with the exercises", "folder", type=Path)
    made.formatter_class, made.epilog = argparse.RawDescriptionHelpFormatter, MADE_FOR
    made.add_argument("--student", metavar="ID", help="give the student with this ID numbers and mistakes of their own")
    salt_options(made, "with --student: what the numbers depend on besides the ID")
    command("list", "your progress")
    command("run", "run a lesson's experiment", "lesson", help="its number, or all").add_argument(
        "arguments", nargs=argparse.REMAINDER
    )
    command(
        "check",
        "check your solutions",
        "which",
        nargs="*",
        help="lessons (07) or exercises (07.2); all unless given",
    )
    command("notebook", "write a lesson as a notebook, which needs no mpirun", "lesson").add_argument(
        "--out", type=Path, metavar="FILE", help="where to (default: its name, such as 07_data_parallel.ipynb)"
    )
    command("hint", "a hint for an exercise", "exercise")
    command("show", "the model solution of an exercise", "exercise")
    command("reset", "put the stub of an exercise back; yours is kept", "exercise")
    command("doctor", "look at this machine: will mpirun work?")
    grading.options(command("grade", "check the folders of a class anew and write results"))
    command(
        "selftest", "replace your functions by the model solutions (yours are kept) and check them", "folder", type=Path
    )
    return top


def main(arguments: list[str] | None = None) -> int:
    """Return 0 for success, 1 if an exercise fails, 2 for a mistake in the command."""
    return watching_output(partial(run_command, arguments))


def run_command(arguments: list[str] | None) -> int:
    """Run the command and return its status."""
    if not (sys.argv[1:] if arguments is None else arguments):
        parser().print_help()
        return 2
    a = parser().parse_args(arguments)
    try:
        return dispatch(a)
    except (Stop, UserError) as error:
        print(f"lessons: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if getattr(sys.stdout, "lost", None) is not None:  # lost output: `watching_output` reports it
            raise
        print(f"lessons: cannot write or read {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def dispatch(a: argparse.Namespace) -> int:
    """Run the chosen command and return its status. Raise Stop for a mistake in its arguments."""
    if a.command == "init":
        return init(a.folder, a.student, salt_of(a))
    if a.command == "run":
        return run_all() if a.lesson == "all" else run(find_lesson(a.lesson), a.arguments)
    if a.command == "notebook":
        lesson = find_lesson(a.lesson)
        numbers = Folder(a.dir).numbers if (a.dir / STATE).exists() else ""
        return write_notebook(lesson, a.out or Path(f"{lesson.folder.name}.ipynb"), numbers)
    if a.command == "doctor":
        return subprocess.run([sys.executable, "-m", "minitrain", "doctor"]).returncode
    if a.command == "grade":
        chosen = [e for name in a.lessons.split(",") if name.strip() for e in find_exercises(name.strip())]
        return grading.grade(a, sorted(set(chosen), key=exercises().index) or exercises())
    if a.command == "selftest":
        return selftest(Folder(a.folder))
    folder = Folder(a.dir)
    if a.command == "list":
        return show_list(folder)
    if a.command == "check":
        chosen = [e for name in a.which for e in find_exercises(name)]
        return check_all(folder, chosen or exercises(), as_given=any("." in name for name in a.which))
    found = find_exercises(a.exercise)
    if "." not in a.exercise:
        raise Stop(f"name one exercise: {', '.join(e.id for e in found)}")
    (exercise,) = found
    return {"hint": hint, "show": show, "reset": reset}[a.command](folder, exercise)
