"""Which lessons there are, and what an exercise is.

An exercise points at the function that is its model solution: one of the library, or of the lesson's own lesson.py or
check.py ("lesson:train"). The stub that a student gets is made from it, so there is no second copy to keep in step.
"""

import ast
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Exercise:
    """kind: I implement a function, P predict a number, B mend a function that has a mistake (planted: which mutant).

    hints: from a nudge to nearly the answer. ranks: how many the check is run on.
    """

    id: str
    kind: str
    target: str
    hints: tuple[str, str, str]
    ranks: int = 1
    points: int = 10
    planted: str = ""

    @property
    def function(self) -> str:
        """The name under which exercise.py defines it."""
        return self.target.partition(":")[2].rpartition(".")[2]

    @property
    def lesson(self) -> "Lesson":
        return BY_NUMBER[self.id.partition(".")[0]]

    @property
    def module(self) -> ModuleType:
        """Where the model solution stands."""
        name = self.target.partition(":")[0]
        return self.lesson.module(name) if name in ("lesson", "check") else import_module(name)

    def mutants(self) -> list["Mutant"]:
        """Wrong solutions that the checker rejects: mutants/K_name.py, K being this exercise's number."""
        number = self.id.partition(".")[2]
        return [Mutant(path) for path in sorted((self.lesson.folder / "mutants").glob(f"{number}_*.py"))]


@dataclass(frozen=True)
class Mutant:
    """A wrong solution in a file of its own.

    It may define SAYS = "...", a part of the sentence with which it fails: then that sentence names the mistake by
    itself (a hang, say), and no solution is compared with it.
    """

    path: Path

    @property
    def says(self) -> str:
        for node in ast.parse(self.path.read_text("utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SAYS":
                return str(ast.literal_eval(node.value))
        return ""

    @property
    def mistake(self) -> str:
        """What is wrong: the first line of its docstring."""
        return (ast.get_docstring(ast.parse(self.path.read_text("utf-8"))) or "").partition("\n")[0].rstrip(".")


@dataclass(frozen=True)
class Lesson:
    """needs: the lessons that it builds on. ranks: how many its lesson.py is started with."""

    number: str
    name: str
    sentence: str
    needs: tuple[str, ...] = ()
    ranks: int = 1

    @property
    def title(self) -> str:
        return self.name.replace("_", " ")

    @property
    def folder(self) -> Path:
        return HERE / f"{self.number}_{self.name}"

    @property
    def written(self) -> bool:
        return (self.folder / "exercises.py").exists()

    def module(self, name: str) -> ModuleType:
        """lesson.py, check.py or exercises.py of this lesson."""
        return import_module(f"lessons.{self.folder.name}.{name}")

    @cached_property
    def exercises(self) -> tuple[Exercise, ...]:
        return self.module("exercises").EXERCISES if self.written else ()


LESSONS = (
    Lesson("00", "hello", "N copies of one program", ranks=4),
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
    """The lessons that exist."""
    return [lesson for lesson in LESSONS if lesson.written]


def exercises() -> list[Exercise]:
    """Of all lessons, in order."""
    return [exercise for lesson in written() for exercise in lesson.exercises]
