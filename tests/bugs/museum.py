"""The bug museum: mistakes found in published teaching code, planted one by one, and the tests that see them.

Each file museum_*.py holds one bug, which enters through an argument that the library offers; no line of the library is
changed for it. `python -m tests.bugs.museum` (make bugs) plants them all and prints what came of it: the correct code
must pass the test that is named, and the planted copy must fail it.
"""

import importlib
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.table import Table

from minitrain.backend import Array
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.data.batch import Batch
from minitrain.parallel.data_parallel import sync_gradients
from minitrain.parallel.reducer import Reducer
from minitrain.train.build import REDUCERS
from tests.equivalence.harness import Case, Row, same_as_serial


class FunctionBug:
    """A bug that is an argument of a test; without it, the test is about the library's own function."""

    def __init__(self, test: Callable[..., None], correct: tuple = (), planted: tuple = (), **doors: Any) -> None:
        self.test, self.correct, self.planted, self.doors = test, correct, planted or correct, doors
        self.killer = f"{test.__module__.replace('.', '/')}.py::{test.__name__}"

    def symptom(self, planted: bool) -> str:
        """What the test complains about; empty when it passes."""
        try:
            self.test(*self.planted, **self.doors) if planted else self.test(*self.correct)
        except (AssertionError, RuntimeError) as error:
            return next(iter(str(error).strip().splitlines()), "an assertion")
        return ""


class DataParallelBug:
    """A bug in data parallel: on three ranks, with SGD and a batch that does not divide, it is not the serial run."""

    killer = "tests/equivalence/test_data_parallel.py::test_mpi"

    def __init__(
        self, how: str, reducer: type[Reducer] | None = None, accumulate: int = 1, dropout: float = 0.1, **doors: Any
    ) -> None:
        options: dict[str, Any] = {"reducers": {**REDUCERS, how: reducer}} if reducer else {}
        if "sync" in doors:
            options["sync"] = doors.pop("sync")
        self.correct = Case(f"dp-{how}", comm="ring", accumulate=accumulate, dropout=dropout)
        self.bug = replace(self.correct, options=options, **doors)

    def symptom(self, planted: bool) -> str:
        """The columns of the matrix that are not as they should be; empty when all are."""
        case = self.bug if planted else self.correct
        rows = threads.run(3, lambda world: same_as_serial(world, case))
        return "" if rows[0].ok else ", ".join(_wrong(rows[0], case.bound))


def _wrong(row: Row, bound: float) -> list[str]:
    found = {
        "loss": not row.max_dloss <= bound,
        "gradients": not row.max_dgradient <= bound,
        "parameters": not row.max_dparameter <= bound,
        "replicas": not row.replicas_equal,
        "work": row.work != 1,
        "bytes": row.bytes != row.bytes_theory or not row.bytes_per_rank_ok,
    }
    return [name for name, wrong in found.items() if wrong]


def average(gradients: Sequence[Array], group: Communicator) -> None:
    """A mean over ranks, where the loss is divided by the global count already."""
    sync_gradients(gradients, group)
    for gradient in gradients:
        gradient /= group.size


def part_with_local_mean(batch: Batch, i: int, n: int) -> Batch:
    """A rank's part that takes itself for the whole batch, so that the loss is divided by its own count."""
    part = batch.part(i, n)
    own = len(part.inputs)
    return replace(part, where=replace(part.where, B=own, samples=slice(0, own)))


def exhibits() -> dict[str, ModuleType]:
    """name -> module, for every file of the museum."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("museum_*.py"))
    return {name.removeprefix("museum_"): importlib.import_module(f"tests.bugs.{name}") for name in names}


def main() -> int:
    """Prints the table; status 1 when a bug survives or correct code fails."""
    warnings.simplefilter("ignore", RuntimeWarning)  # the bugs divide by zero, and so they should
    table = Table("no.", box=None, pad_edge=False)
    table.add_column("planted bug", max_width=44)
    table.add_column("the test that it fails, and what that test sees", overflow="fold")
    failures = 0
    for name, module in exhibits().items():
        correct, planted = module.BUG.symptom(planted=False), module.BUG.symptom(planted=True)
        failures += bool(correct) or not planted
        verdict = f"THE CORRECT CODE FAILS: {correct}" if correct else planted or "NOTHING: IT SURVIVES"
        number = re.match(r"0*(\w+?)_", name)
        assert module.__doc__ and number
        table.add_row(number[1], module.__doc__.strip(), f"{module.BUG.killer}\n{verdict}")
    Console(highlight=False, markup=False).print(table)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
