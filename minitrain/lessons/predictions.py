"""Predictions: in a folder with numbers of its own, a line above each function of kind P.

    PREDICTED_06_3 = None  # equal_size(ranks=37, alpha=2e-06, beta=5e-10): work it out on paper first

It is read from the text, and never run: a call of the function would be no prediction.
"""

import ast
from contextlib import suppress
from typing import Any

from .manifest import Exercise
from .numbers import arguments

BROKEN = (ValueError, TypeError, SyntaxError, MemoryError, RecursionError)  # what `ast` may raise
CLOSE = 0.01  # relative; a number that is not whole need not be more exact


def name_of(exercise: Exercise) -> str:
    """Return the name of the prediction, such as PREDICTED_06_3."""
    return f"PREDICTED_{exercise.id.replace('.', '_')}"


def call_of(exercise: Exercise) -> str:
    """Return the call whose result is to be predicted."""
    return f"{exercise.function}({', '.join(f'{name}={_shown(it)}' for name, it in arguments(exercise).items())})"


def right(exercise: Exercise) -> Any:
    """Return what the model solution returns for the student's arguments."""
    return getattr(exercise.module, exercise.function)(**arguments(exercise))


def line_of(exercise: Exercise, solved: bool = False) -> str:
    """Return the line above the function, with two blank lines after it; "" if there is nothing to predict."""
    if not arguments(exercise):
        return ""
    value = repr(right(exercise)) if solved else "None"
    return f"{name_of(exercise)} = {value}  # {call_of(exercise)}: work it out on paper first\n\n\n"


def without(text: str, exercise: Exercise) -> str:
    """Return the text of a file without the prediction. Raise SyntaxError if it is no Python code."""
    lines = text.splitlines(keepends=True)
    for node in reversed(_assignments(text, exercise)):
        after = node.end_lineno or node.lineno
        while after < len(lines) and not lines[after].strip():
            after += 1
        del lines[node.lineno - 1 : after]
    return "".join(lines)


def mistaken(exercise: Exercise, text: str, late: bool) -> str:
    """Say what is wrong with the prediction in this text; "" if nothing is. late: whether there must be one by now."""
    if not arguments(exercise):
        return ""
    name, call = name_of(exercise), call_of(exercise)
    found = [node.value for node in _assignments(text, exercise)]
    missing = f"first work out {call} on paper, and write above the function: {name} = what comes out"
    if not found:
        return f"there is no {name}: {missing}" if late else ""
    try:
        value = ast.literal_eval(found[-1] or "None")
    except BROKEN:
        return f"{name} must be written out, as in 12, 1.5e6 or [1, 2], without names, calls and operations"
    if value is None:
        return f"{name} is None: {missing}" if late else ""
    remark = _apart(value, right(exercise))
    wrong = f"{name} is not what {call} returns{remark}: work it out once more, step by step"
    return "" if remark is None else wrong


def said(exercise: Exercise, text: str) -> Any:
    """Return the prediction in this text; None if there is none, or none that can be read."""
    with suppress(*BROKEN):
        found = [node.value for node in _assignments(text, exercise)]
        return ast.literal_eval(found[-1] or "None") if found else None
    return None


def is_right(exercise: Exercise, value: Any) -> bool:
    """Return whether this is the prediction that the student must make."""
    return _apart(value, right(exercise)) is None


def _assignments(text: str, exercise: Exercise) -> list[ast.Assign | ast.AnnAssign]:
    """Return the statements at the top level that set the prediction."""
    found: list[ast.Assign | ast.AnnAssign] = []
    for node in ast.parse(text).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(it, ast.Name) and it.id == name_of(exercise) for it in targets):
                found.append(node)
    return found


def _apart(said: Any, true: Any) -> str | None:
    """Return a remark about where a prediction differs, which does not tell the truth; None if it does not differ."""
    if isinstance(true, dict):
        if not isinstance(said, dict) or said.keys() != true.keys():
            return f" (it must be a dict with the keys {', '.join(map(repr, true))})"
        return next((f" (see {key!r})" for key in true if _apart(said[key], true[key]) is not None), None)
    if isinstance(true, list):
        if not isinstance(said, list) or len(said) != len(true):
            return f" (it must be a list of {len(true)} elements)"
        return next((f" (see element {i})" for i, it in enumerate(true) if _apart(said[i], it) is not None), None)
    if isinstance(true, str):
        return None if said == true else ""
    if isinstance(said, bool) or not isinstance(said, (int, float)):
        return " (it must be a number)"
    if isinstance(true, int):
        return None if said == true else ""
    least, most = sorted((true * (1 - CLOSE), true * (1 + CLOSE)))
    return None if least <= said <= most else ", to within 1%"


def _shown(value: Any) -> str:
    """Return the value as Python code, a large whole number in groups of three digits."""
    large = isinstance(value, int) and abs(value) >= 10**4
    return f"{value:_}" if large else repr(value)
