"""The files that a grading writes: whether they can be written is known before the checks, which may take an hour."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import UserError
from .exports import FORMS, OF_ONE, Form, Row, to_gradescope

STUDENT = "{student}"  # in a path: write a file for each student


@dataclass(frozen=True)
class Target:
    """A file to write. students: those whose results go into it."""

    form: str
    path: Path
    students: tuple[str, ...]


def targets(paths: Mapping[str, Path | None], students: list[str]) -> list[Target]:
    """Return the files to write. paths: form -> path as given. Raise UserError if a file cannot be written."""
    found: list[Target] = []
    for form, path in paths.items():
        if path is None:
            continue
        if STUDENT in str(path):
            called = {student: student.strip("/").replace("/", "-") for student in students}
            found += [Target(form, Path(str(path).replace(STUDENT, called[it])), (it,)) for it in students]
        elif form in OF_ONE and len(students) > 1:
            raise UserError(
                f"--{form} describes one student, and these are {len(students)}: write {STUDENT} in its path"
            )
        else:
            found.append(Target(form, path, tuple(students)))
    for target in found:
        if sum(other.path == target.path for other in found) > 1:
            raise UserError(f"--{target.form}: {target.path} would be written twice; give each file its own path")
        _try(target)
    return found


def _try(target: Target) -> None:
    """Raise UserError if the file cannot be written."""
    new = not target.path.exists()
    try:
        with target.path.open("ab"):
            pass
    except OSError as error:
        raise UserError(f"--{target.form}: cannot write {target.path}: {error.strerror}") from None
    if new:
        target.path.unlink()


def write(found: list[Target], rows: list[Row], visibility: str) -> None:
    """Write the files, each if it has rows. If some cannot be written, write the others, then raise OSError."""
    forms: dict[str, Form] = {**FORMS, "gradescope": partial(to_gradescope, visibility=visibility)}
    failed: OSError | None = None
    for target in found:
        if own := [row for row in rows if row.student in target.students]:
            try:
                target.path.write_text(forms[target.form](own), "utf-8", "backslashreplace")
            except OSError as error:
                failed = error
    if failed is not None:
        raise failed
