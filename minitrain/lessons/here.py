"""Check an exercise in a notebook, with threads as ranks: check_here("07.2", sync_gradients)."""

import inspect
import linecache
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import UserError
from .check import check
from .cli import find_exercises, print_verdict
from .numbers import individual


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
        print_verdict(check(exercise, file, threads=True), hint="above the cell of")
