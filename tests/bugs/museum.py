"""The bug museum: mistakes found in published teaching code, planted one at a time, and the tests that catch them.

Each file museum_*.py holds one bug. It is injected through an argument that the library offers, so no line of the
library changes. `python -m tests.bugs.museum` (make bugs) plants all of them and prints the results: the correct code
must pass the named test and the planted bug must fail it.
"""

import importlib
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.table import Table

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.data.batch import Batch
from minitrain.lessons.course import COURSE
from minitrain.lessons.worker import load
from minitrain.parallel.data_parallel import sync_gradients
from minitrain.parallel.parallelize import REDUCERS
from minitrain.parallel.reducer import Reducer
from minitrain.train.progress import Progress
from tests.equivalence.harness import Case
from tests.equivalence.test_data_parallel import test_three_ranks


class FunctionBug:
    """A bug passed to a test as an argument. Without it, the test checks the library's own function."""

    def __init__(self, test: Callable[..., None], correct: tuple = (), planted: tuple = (), **hooks: Any) -> None:
        self.test, self.correct, self.planted, self.hooks = test, correct, planted or correct, hooks
        self.killer = f"{test.__module__.replace('.', '/')}.py::{test.__name__}"

    def symptom(self, planted: bool) -> str:
        """Return the test's complaint, or an empty string if it passes."""
        hook, threading.excepthook = threading.excepthook, lambda args: None  # a planted bug may fail in a thread
        try:
            self.test(*self.planted, **self.hooks) if planted else passes(self.test, self.correct)
        except (AssertionError, RuntimeError) as error:
            return next(iter(str(error).strip().splitlines()), "an assertion")
        finally:
            threading.excepthook = hook
        return ""


class FolderBug(FunctionBug):
    """A bug passed to a check that needs an empty folder, which a test of this name calls."""

    def __init__(self, test: Callable[..., None], check: Callable[..., None], *arguments: Any, **hooks: Any) -> None:
        def in_a_folder(**given: Any) -> None:
            with tempfile.TemporaryDirectory() as folder:
                check(Path(folder), *arguments, **given)

        super().__init__(in_a_folder, **hooks)
        self.killer = f"{test.__module__.replace('.', '/')}.py::{test.__name__}"


PASSED: set[tuple[str, str]] = set()  # (test, arguments) pairs that passed on correct code


def passes(test: Callable[..., None], correct: tuple) -> None:
    """Run the test on correct code, once for all the bugs that it catches."""
    key = f"{test.__module__}.{test.__qualname__}", repr(correct or test)
    if key not in PASSED:
        test(*correct)
        PASSED.add(key)


class DataParallelBug(FunctionBug):
    """A data-parallel bug: three ranks, SGD and a batch size they do not divide no longer reproduce the serial run."""

    def __init__(
        self,
        how: str,
        reducer: type[Reducer] | None = None,
        accumulate: int = 1,
        dropout: float = 0.1,
        ignore: bool = False,
        **hooks: Any,
    ) -> None:
        opened: dict[str, Any] = {"reducers": {**REDUCERS, how: reducer}} if reducer else {}
        opened |= {name: hooks.pop(name) for name in ("sync", "same") if name in hooks}
        correct = Case(f"dp-{how}", comm="ring", accumulate=accumulate, dropout=dropout, ignore=ignore)
        super().__init__(test_three_ranks, (correct,), (replace(correct, hooks=opened, **hooks),))


def average(gradients: Sequence[Array], group: Communicator) -> None:
    """Average over the ranks, although the loss is already divided by the global count."""
    sync_gradients(gradients, group)
    for gradient in gradients:
        gradient /= group.size


def part_with_local_mean(batch: Batch, i: int, n: int) -> Batch:
    """Return rank i's part of the batch as if it were the whole batch: the loss is divided by the local count."""
    part = batch.part(i, n)
    own = len(part.inputs)
    return replace(part, where=replace(part.where, B=own, samples=slice(0, own)))


def mutant(lesson: str, name: str) -> ModuleType:
    """Return, as a module, a wrong solution that a lesson's checker rejects: the same mistake in one file."""
    return load(COURSE / lesson / "mutants" / f"{name}.py")


def exhibits() -> dict[str, ModuleType]:
    """Return name -> module for every exhibit."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("museum_*.py"))
    return {name.removeprefix("museum_"): importlib.import_module(f"tests.bugs.{name}") for name in names}


def main() -> int:
    """Print the table and return status 1 if a bug survives or correct code fails."""
    warnings.simplefilter("ignore", RuntimeWarning)  # expected: some bugs divide by zero
    table = Table("no.", box=None, pad_edge=False)
    table.add_column("planted bug", max_width=44)
    table.add_column("the test that it fails, and what that test sees", overflow="fold")
    failures = 0
    museum = exhibits()
    with Progress().task("", len(museum), "bugs") as task:
        for name, module in task.watch(museum.items()):
            correct, planted = module.BUG.symptom(planted=False), module.BUG.symptom(planted=True)
            failures += bool(correct) or not planted
            verdict = f"THE CORRECT CODE FAILS: {correct}" if correct else planted or "NOTHING: IT SURVIVES"
            number = re.match(r"0*(\w+?)_", name)
            assert module.__doc__ and number
            killer = module.BUG.killer.rpartition("/")[2]
            table.add_row(number[1], module.__doc__.strip(), f"{killer}\n{verdict}")
    Console(highlight=False, markup=False).print(table)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
