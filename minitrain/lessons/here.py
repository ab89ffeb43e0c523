"""Check an exercise in a notebook, with threads as ranks: check_here("07.2", sync_gradients).

A cell that passes is also put into exercise.py, the file to hand in, if the notebook lies in the student's folder.
"""

import inspect
import linecache
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import UserError
from .check import check, untouched
from .cli import find_exercises, print_verdict
from .folder import Folder, Stop
from .manifest import Exercise
from .numbers import individual
from .stubs import put


def check_here(name: str, function: Callable[..., Any], numbers: str = "") -> None:
    """Check the cell that defines this function, and print the verdict. numbers: the student's own, if any.

    The cell runs in a new process, as exercise.py does in `lessons check`: it must contain the imports and the helpers
    that the function uses. Raise UserError if the function was not defined in a cell.
    """
    (exercise,) = (individual(it, numbers) for it in find_exercises(name))
    cell = "".join(linecache.getlines(inspect.unwrap(function).__code__.co_filename))
    if function.__module__ != "__main__" or not cell:
        raise UserError(f"{function.__name__} is that of {function.__module__}: first run the cell that defines yours")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "cell.py"
        file.write_text(cell, "utf-8")
        verdict = check(exercise, file, threads=True)
    print_verdict(verdict, hint="above the cell of")
    if verdict.state == "passed":
        print(f"   {handed_in(exercise, cell)}")


def handed_in(exercise: Exercise, cell: str) -> str:
    """Put a cell into the exercise.py of the folder that the notebook lies in. Return a sentence about it."""
    file = Path(exercise.lesson.folder.name, "exercise.py")
    try:
        folder = Folder(Path())
        text = file.read_text("utf-8")
        if not untouched(exercise, text):
            same = cell.strip() in text
            return f"{file} has {'it' if same else 'another version: to hand in this one, copy the cell there'}"
        file.write_text(put(text, exercise, cell), "utf-8")
    except (Stop, OSError, ValueError, SyntaxError, LookupError):
        return f"to hand it in, copy the cell into {file} of your folder"
    folder.of(exercise)["passed"] = True
    folder.save()
    return f"{file} has it now: that is the file to hand in"
