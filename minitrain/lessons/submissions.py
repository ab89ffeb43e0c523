"""Read what students have submitted, before any of it is run."""

import json
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..errors import UserError
from .check import LARGEST
from .manifest import Lesson
from .numbers import is_hash, is_student

STATE = ".lessons.json"


@dataclass(frozen=True)
class Submission:
    """A student's folder, as it was received.

    files: lesson number -> exercise.py. missing: lesson number -> why there is none. shown: exercises whose solution
    the student looked at, as the folder says. folder: its name. id, numbers: the student's ID and own numbers, as the
    folder says; "" if it does not. remark: what a lecturer should know about these.
    """

    student: str
    files: dict[str, bytes]
    missing: dict[str, str]
    shown: frozenset[str]
    folder: str = ""
    id: str = ""
    numbers: str = ""
    remark: str = ""

    def digest(self, lesson: str) -> str:
        """Return the first 12 digits of the SHA-256 of a lesson's exercise.py; "" if there is none."""
        return sha256(self.files[lesson]).hexdigest()[:12] if lesson in self.files else ""


def folders(paths: Iterable[Path]) -> tuple[dict[str, Path], list[Path]]:
    """Return student -> folder, and the paths that are plain files, which are skipped.

    A student is called by the folder's name, or by the path as given if several folders have that name. Raise UserError
    for a path that does not exist, and if no folder is left.
    """
    paths = list(dict.fromkeys(paths))
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} is no folder of exercises: it does not exist")
    found = [path for path in paths if path.is_dir()]
    if not found:
        raise UserError(f"{', '.join(map(str, paths[:3]))}: a plain file; give the students' folders, such as class/*/")
    names = [path.resolve().name for path in found]
    called = [name if names.count(name) == 1 else path.as_posix() for name, path in zip(names, found, strict=True)]
    return dict(zip(called, found, strict=True)), [path for path in paths if not path.is_dir()]


def receive(student: str, folder: Path, lessons: Iterable[Lesson]) -> Submission:
    """Read a folder. It need not have been made by `lessons init`."""
    files: dict[str, bytes] = {}
    missing: dict[str, str] = {}
    for lesson in lessons:
        name = f"{lesson.folder.name}/exercise.py"
        try:
            files[lesson.number] = _content(folder, name)
        except OSError as error:
            missing[lesson.number] = f"{name}: {error.strerror or error}"
    if not files and (deeper := sorted(folder.glob("*/[0-9][0-9]_*/exercise.py"))):
        hint = f"{folder.name} has no lessons' folders, but {deeper[0].parents[1].relative_to(folder.parent)} has"
        missing = dict.fromkeys(missing, f"{hint}: give that folder")
    state = _state(folder / STATE)
    shown = frozenset(id for id, it in state.items() if isinstance(it, dict) and it.get("shown"))
    id, numbers = owner(state)
    return Submission(student, files, missing, shown, folder.resolve().name, id, numbers)


def owner(state: Mapping[str, Any]) -> tuple[str, str]:
    """Return the student's ID and own numbers that a folder remembers, "" for what is missing or none."""
    id, numbers = state.get("student"), state.get("numbers")
    return (id if is_student(id) else ""), (numbers if is_hash(numbers) else "")


def _content(folder: Path, name: str) -> bytes:
    """Return the content of a file inside the folder. Raise OSError if there is none, saying why."""
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise OSError("a link that leads out of the folder")
    except RuntimeError:  # before Python 3.13
        raise OSError("a link that leads to itself") from None
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a file")
    if status.st_size > LARGEST:
        raise OSError(f"{status.st_size:,} bytes; an exercise.py has at most {LARGEST:,}")
    return path.read_bytes()


def _state(state: Path) -> dict[str, Any]:
    """Return what the folder remembers; {} if that cannot be read. The file is the student's: anything may be in it."""
    with suppress(OSError, ValueError, RecursionError):
        if state.is_file() and state.stat().st_size <= LARGEST:
            known = json.loads(state.read_text("utf-8"))
            if isinstance(known, dict):
                return known
    return {}
