"""A student's folder, made by `lessons init`: the saved progress, and whose it is if it has numbers of its own."""

import json
from pathlib import Path

from .course import COURSE
from .manifest import Exercise, Lesson, written
from .numbers import LONGEST, hashed, individual, is_student
from .stubs import exercise_file
from .submissions import STATE, owner

WELCOME = """This folder is yours: one folder a lesson, with the functions to write in exercise.py.

    lessons list              where you are
    lessons run 07            see the lesson's experiment
    lessons notebook 07       its page, code and exercises as a notebook, which needs no mpirun
    lessons check 07          check all its exercises; or one: check 07.2
    lessons hint 07.2         a hint, then a clearer one
    lessons show 07.2         the model solution
    lessons reset 07.2        start a function anew (yours is kept beside it)

What to read: {readme}
"""


class Stop(Exception):
    """A mistake in the command: what was given, what is expected."""


class Folder:
    """The student's folder and its saved progress."""

    def __init__(self, path: Path) -> None:
        """Read the progress. Raise Stop if `path` is not a student's folder."""
        self.path = path
        self.file = path / STATE
        try:
            self.state = json.loads(self.file.read_text("utf-8"))
        except FileNotFoundError:
            raise Stop(f"{path} is no folder of exercises. Make one: lessons init ../my-minitrain") from None
        except ValueError as error:
            raise Stop(f"{self.file} is damaged ({error}); delete it and run: lessons init {path}") from None
        if not isinstance(self.state, dict):
            raise Stop(f"{self.file} is damaged (it must be an object); delete it and run: lessons init {path}")
        self.numbers = owner(self.state)[1]
        if not self.numbers and "numbers" in self.state:
            raise Stop(f"{self.file} is damaged: 'numbers' must be 64 hexadecimal digits. Ask for your folder again")

    def exercise_file(self, lesson: Lesson) -> Path:
        """Return the path of the student's exercise.py for a lesson."""
        return self.path / lesson.folder.name / "exercise.py"

    def own(self, exercise: Exercise) -> Exercise:
        """Return the exercise with the student's own numbers, if there are any."""
        return individual(exercise, self.numbers)

    def initial(self, lesson: Lesson, solved: bool = False) -> str:
        """Return the text of a lesson's exercise.py with stubs, or with the model solutions."""
        return exercise_file(lesson, solved, self.numbers)

    def of(self, exercise: Exercise) -> dict:
        """Return the saved state of an exercise: passed, hints, shown."""
        return self.state.setdefault(exercise.id, {})

    def save(self) -> None:
        """Write the state atomically."""
        partial = self.file.with_suffix(".partial")
        try:
            partial.write_text(json.dumps(self.state, indent=1), "utf-8")
            partial.replace(self.file)
        finally:
            partial.unlink(missing_ok=True)


def init(folder: Path, student: str | None = None, salt: str = "") -> int:
    """Create the folder, with numbers of its own for a student. Existing files are left unchanged.

    Raise Stop for a student without a salt or the reverse, and if the folder exists with other numbers.
    """
    state = remembered(student, salt)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / STATE).exists():
        (folder / STATE).write_text(json.dumps(state, indent=1) if state else "{}", "utf-8")
    made = Folder(folder)
    if state and owner(made.state) != owner(state):
        raise Stop(f"{folder} exists, and without these numbers; give a new folder for student {student!r}")
    for lesson in written():
        path = made.exercise_file(lesson)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(made.initial(lesson), "utf-8")
    page = COURSE / "README.md" if student is None else "README.md in the folder lessons of minitrain"
    (folder / "README.txt").write_text(WELCOME.format(readme=page), "utf-8")
    print(f"{folder} is ready: cd {folder}, then lessons list")
    return 0


def remembered(student: str | None, salt: str) -> dict[str, str]:
    """Return what a folder with numbers of its own remembers: the ID and a hash, never the salt; {} for any other.

    Raise Stop for a student without a salt, the reverse, and what is no ID.
    """
    if student is None and not salt:
        return {}
    if student is None:
        raise Stop("there is a salt, but no --student: name the student whose folder this is, as in --student anna")
    if not salt:
        raise Stop("there is --student, but no salt: give --salt SALT or --salt-file FILE, the same for all students")
    if not is_student(student):
        raise Stop(f"--student is {student[:LONGEST]!r}; it must be an ID of 1 to {LONGEST} characters, such as anna")
    return {"student": student, "numbers": hashed(salt, student)}
