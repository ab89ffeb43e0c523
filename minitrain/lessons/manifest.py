"""The lessons and their exercises.

An exercise names the function that is its model solution: one of the library, or of the lesson's lesson.py or check.py
("lesson:train"). The student's stub is generated from it, so there is no second copy to maintain.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from .course import COURSE

Hints = tuple[str, str, str]  # from a nudge to nearly the answer


@dataclass(frozen=True)
class Fault:
    """A single mistake for a student's own function of kind B: which mutant, and the hints to it."""

    planted: str
    hints: Hints


@dataclass(frozen=True)
class Exercise:
    """kind: I implement a function, P predict a number, B fix a function with a mistake (planted: which mutant).

    hints: from a nudge to nearly the answer. ranks: how many ranks run the check. together: why `lessons grade` has to
    run the function in the same process as the check; empty if it runs the function apart. Students with numbers of
    their own (numbers.py) get one of `faults`, and predict for one of the values in `own` for each parameter. numbers:
    whose they are; "" if nobody's.
    """

    id: str
    kind: str
    target: str
    hints: Hints
    ranks: int = 1
    points: int = 10
    planted: str = ""
    together: str = ""
    faults: tuple[Fault, ...] = ()
    own: Mapping[str, Sequence[Any]] = field(default_factory=dict, hash=False, repr=False)
    numbers: str = ""

    @property
    def function(self) -> str:
        """Return the function's name in exercise.py."""
        return self.target.partition(":")[2].rpartition(".")[2]

    @property
    def lesson(self) -> "Lesson":
        """Return the lesson that this exercise belongs to."""
        return BY_NUMBER[self.id.partition(".")[0]]

    @property
    def module(self) -> ModuleType:
        """Return the module of the model solution."""
        name = self.target.partition(":")[0]
        return self.lesson.module(name) if name in ("lesson", "check") else import_module(name)

    def mutant(self, name: str) -> "Mutant":
        """Return one of the wrong solutions by its file's name."""
        return Mutant(self.lesson.folder / "mutants" / name)

    def mutants(self) -> list["Mutant"]:
        """Return the wrong solutions that the checker rejects: mutants/K_name.py, where K is this exercise's number."""
        return [Mutant(path) for path in self._files("mutants")]

    def also_right(self) -> list[Path]:
        """Return solutions that differ from the model, and that the checker accepts: also_right/K_name.py."""
        return self._files("also_right")

    def _files(self, folder: str) -> list[Path]:
        number = self.id.partition(".")[2]
        return sorted((self.lesson.folder / folder).glob(f"{number}_*.py"))


@dataclass(frozen=True)
class Mutant:
    """A wrong solution in its own file.

    It may define SAYS = "...", part of its failure message. That message then names the mistake by itself (a hang,
    say), and no student's solution is compared with this mutant.
    """

    path: Path

    @property
    def source(self) -> str:
        """Return the text of the file."""
        return self.path.read_text("utf-8")

    @property
    def says(self) -> str:
        """Return SAYS, or an empty string if the file does not define it."""
        for node in ast.parse(self.source).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SAYS":
                return str(ast.literal_eval(node.value))
        return ""

    @property
    def mistake(self) -> str:
        """Return the mistake: the first line of the docstring."""
        return (ast.get_docstring(ast.parse(self.source)) or "").partition("\n")[0].rstrip(".")


@dataclass(frozen=True)
class Lesson:
    """A lesson. needs: its prerequisite lessons. ranks: how many ranks run its lesson.py.

    jobs: whether it also starts jobs, which a notebook leaves out.
    """

    number: str
    name: str
    sentence: str
    needs: tuple[str, ...] = ()
    ranks: int = 1
    jobs: bool = False

    @property
    def title(self) -> str:
        """Return the name with spaces."""
        return self.name.replace("_", " ")

    @property
    def folder(self) -> Path:
        """Return the lesson's folder, such as lessons/02_adam."""
        return COURSE / f"{self.number}_{self.name}"

    @property
    def written(self) -> bool:
        """Return whether the lesson exists."""
        return (self.folder / "exercises.py").exists()

    def module(self, name: str) -> ModuleType:
        """Import lesson.py, check.py or exercises.py of this lesson."""
        return import_module(f"{__package__}.course.{self.folder.name}.{name}")

    @cached_property
    def exercises(self) -> tuple[Exercise, ...]:
        """Return the lesson's exercises; none if it is not written yet."""
        return self.module("exercises").EXERCISES if self.written else ()


LESSONS = (
    Lesson("00", "hello", "N copies of one program", ranks=4, jobs=True),
    Lesson("01", "autograd", "a tape and the chain rule, backwards"),
    Lesson("02", "adam", "the step size is chosen per coordinate", needs=("01",)),
    Lesson("03", "schedules", "the learning rate is a pure function of the step", needs=("02",)),
    Lesson("04", "safe_steps", "bound a step; build a batch from pieces", needs=("02",)),
    Lesson("05", "fp16", "slide the gradients into the window", needs=("02",)),
    Lesson("06", "collectives", "all-reduce = reduce-scatter + all-gather", needs=("00",), ranks=4),
    Lesson("07", "data_parallel", "split the batch, add the gradients", needs=("02", "06"), ranks=4),
    Lesson("08", "overlap", "talk while you compute", needs=("07",)),
    Lesson("09", "async", "what stale gradients cost", needs=("07",)),
    Lesson("10", "zero12", "nobody needs all of it", needs=("07",), ranks=4),
    Lesson("11", "zero3", "gather a layer, use it, drop it", needs=("10",)),
    Lesson("12", "tensor", "split the matrix so that the non-linearity stays local", needs=("07",)),
    Lesson("13", "recompute", "pay time for memory", needs=("01",)),
    Lesson("14", "pipeline", "the bubble", needs=("07",), ranks=4),
    Lesson("15", "failures", "a run is only as long as its checkpoint", needs=("07",)),
    Lesson("16", "mesh", "who talks to whom", needs=("10", "12", "14")),
    Lesson("17", "capstone", "predict, then run", needs=("16",)),
)

BY_NUMBER = {lesson.number: lesson for lesson in LESSONS}


def written() -> list[Lesson]:
    """Return the lessons that exist."""
    return [lesson for lesson in LESSONS if lesson.written]


def exercises() -> list[Exercise]:
    """Return the exercises of all lessons, in order."""
    return [exercise for lesson in written() for exercise in lesson.exercises]
