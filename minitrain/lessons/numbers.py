"""Numbers of a student's own: what to predict (kind P) and which mistake to fix (kind B).

    numbers = hashed(salt, "anna")           a SHA-256, which anna's folder keeps; the salt is the lecturer's secret
    exercise = individual(exercise, numbers)

The numbers follow from this hash and the exercise's id, so a check needs no salt. They come from raw words of the
library's counter-based generator, not from a distribution of NumPy's, which another version may draw differently.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeGuard
from unicodedata import normalize

from .. import rng
from ..errors import UserError
from .manifest import Exercise, Fault

LONGEST = 100  # characters of an ID


def hashed(salt: str, student: str) -> str:
    """Return the hash that a student's numbers follow from: SHA-256 of the salt's length, the salt and the ID.

    Accented letters count the same in both of Unicode's spellings: systems store the names of folders in either.
    """
    secret, name = (normalize("NFC", text).encode("utf-8", "surrogatepass") for text in (salt, student))
    return sha256(b"%d:%b%b" % (len(secret), secret, name)).hexdigest()


def is_hash(value: object) -> TypeGuard[str]:
    """Return whether the value may be such a hash."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def is_student(value: object) -> TypeGuard[str]:
    """Return whether the value may be a student's ID."""
    return isinstance(value, str) and bool(value.strip()) and len(value) <= LONGEST


def individual(exercise: Exercise, numbers: str) -> Exercise:
    """Return the exercise as the student with these numbers gets it; unchanged if `numbers` is empty."""
    if not numbers:
        return exercise
    mine = replace(exercise, numbers=numbers)
    if not exercise.faults:
        return mine
    fault = chosen(exercise.faults, numbers, exercise.id, "fault")
    usual = Fault(exercise.planted, exercise.hints)
    return replace(mine, planted=fault.planted, hints=fault.hints, faults=(*exercise.faults, usual))


def arguments(exercise: Exercise) -> dict[str, Any]:
    """Return the arguments that the student must predict for; empty if there are none."""
    if not exercise.numbers:
        return {}
    return {name: chosen(values, exercise.numbers, exercise.id, name) for name, values in exercise.own.items()}


def chosen(values: Sequence[Any], *parts: str) -> Any:
    """Return one of the values, which these parts decide."""
    word = int(rng.words(rng.key(*parts), 0, 1)[0])
    return values[word * len(values) >> 64]


def salt_options(parser: argparse.ArgumentParser, text: str) -> None:
    """Add --salt and --salt-file. text: what the salt does."""
    parser.add_argument("--salt", help=f"{text}; a long text that only you know")
    parser.add_argument("--salt-file", type=Path, metavar="FILE", help="read the salt from this file instead")


def salt_of(given: argparse.Namespace) -> str:
    """Return the salt; "" if none was given. Raise UserError for an empty one, and for two."""
    if given.salt is None and given.salt_file is None:
        return ""
    if given.salt is not None and given.salt_file is not None:
        raise UserError("there are --salt and --salt-file; give one of them")
    try:
        salt = (given.salt_file.read_text("utf-8") if given.salt is None else given.salt).strip()
    except ValueError:
        raise UserError(f"--salt-file is {given.salt_file}; it must contain text in UTF-8") from None
    if not salt:
        raise UserError("the salt is empty; give a long text that only you know, the same for the whole class")
    return salt
