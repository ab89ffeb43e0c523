"""Which strategy do I choose? Every one that fits a model on so many ranks, by predicted time."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ..environment import launched
from ..errors import UserError, check_whole, reason, shown
from ..planner.estimate import Estimate
from ..planner.machines import Computer
from ..planner.measure import measured
from ..planner.search import Found, Request, search
from ..runtime.launch import launch
from ..train.progress import Progress
from .plan_options import PlannedMachine, PlannedModel, PlannedStrategy, check_flag
from .plan_reference import presets, published
from .plan_report import as_row, order, report


@dataclass(frozen=True)
class Plan:
    """Choose a strategy: predict memory, traffic and time of every one.

    Nothing is trained. Times are those of products of matrices, and of messages."""

    model: PlannedModel = field(default_factory=PlannedModel)
    machine: PlannedMachine = field(default_factory=PlannedMachine)
    strategy: PlannedStrategy = field(default_factory=PlannedStrategy)
    top: int = 10
    """Strategies to show, the best of each mesh (dp, pp, tp)."""
    variants: bool = False
    """Show all strategies of a mesh, not only the best."""
    list: bool = False
    """Show the presets of models and machines, and stop."""
    published: bool = False
    """Show published tables beside formulas: ZeRO's memory, the speed of Megatron-LM's runs; and stop."""
    out: Path | None = None
    """Write all combinations, with the reason if one does not fit, to this .json or .csv file."""

    def run(self) -> int:
        """Print the plan. Return 1 if nothing fits. Raise UserError for invalid options, or an unwritable file."""
        self.check_output()
        request, computer = self.request()
        console = Console(highlight=False, markup=False, soft_wrap=True, width=200)  # no number is cut off
        tables = self.list or self.published
        if self.machine.measure and not tables:
            request, computer = self.measured(request, computer, console)
        if launched()[1] != 0:
            return 0
        if tables:
            for part in (*(presets() if self.list else ()), *(published() if self.published else ())):
                console.print(part)
            return 0
        if self.out is not None:
            write(self.out)  # a search takes long: fail before
        every = watched(search(request))
        if self.out is not None:
            write(
                self.out, [as_row(found, request, computer) for found in by_time(every)], about(request, computer, self)
            )
        for part in report(every, request, computer, self):
            console.print(part)
        return 0 if any(isinstance(found, Estimate) for found in every) else 1

    def check_output(self) -> None:
        """Raise UserError for invalid options of what is shown and written."""
        check_whole("--top", self.top, 1)
        check_flag("list", self.list)
        check_flag("variants", self.variants)
        check_flag("published", self.published)
        if self.out is None:
            return
        if not isinstance(self.out, Path) or not self.out.name.endswith((".json", ".csv")):
            raise UserError(f"--out is {shown(self.out)}; it must be a file that ends in .json or .csv")
        if self.list or self.published:
            tables = "--list" if self.list else "--published"
            raise UserError(f"--out is {self.out}, but {tables} plans nothing; give one of the two")

    def request(self) -> tuple[Request, Computer]:
        """Return what to search for, and the machine. Raise UserError for invalid options."""
        sizes, computer = self.model.sizes(), self.machine.computer()
        ranks, precisions = self.machine.processes(computer), tuple(dict.fromkeys(self.strategy.precision))
        return Request(
            sizes, ranks, computer.memory, self.model.sequences(), computer.machine, precisions or computer.precisions,
            self.strategy.fixed(ranks), computer.overlap, self.model.flash, self.top,
        ), computer  # fmt: skip

    def measured(self, request: Request, computer: Computer, console: Console) -> tuple[Request, Computer]:
        """Return the request and the machine with the FLOP/s and the link that are measured here."""
        with launch() as world, Progress(world, sys.stderr).task("measuring this machine"):
            computer, lines = measured(world, computer, request.sizes)
        if launched()[1] == 0:
            console.print("\n".join(lines))
        return replace(request, machine=computer.machine), computer


def watched(found: Iterator[Found]) -> list[Found]:
    """Return what is found, and show how far the search is."""
    with Progress(lines=sys.stderr).task("", what="combinations") as task:
        return [*task.watch(found)]


def by_time(every: Sequence[Found]) -> list[Found]:
    """Return what fits, the fastest first, then the rest."""
    fits = sorted((found for found in every if isinstance(found, Estimate)), key=order)
    return [*fits, *(found for found in every if not isinstance(found, Estimate))]


def about(request: Request, computer: Computer, plan: Plan) -> dict[str, Any]:
    """Return what was planned, for a file."""
    asked = {"batch": request.batch, "ranks": request.ranks, "memory": request.memory, "limits": request.fixed}
    return {"model": plan.model.model, "sizes": asdict(request.sizes), **asked, "machine": asdict(computer)}


def write(path: Path, rows: list[dict[str, Any]] | None = None, head: dict[str, Any] | None = None) -> None:
    """Write the rows to a .json file, after what they are about (head), or to a .csv file; None: only open it.

    Raise UserError if that fails.
    """
    try:
        with path.open("a" if rows is None else "w", newline="", encoding="utf-8") as file:
            if rows is None:
                return
            if path.name.endswith(".json"):
                json.dump({**(head or {}), "combinations": rows}, file, indent=1)
            else:
                writer = csv.DictWriter(file, [*dict.fromkeys(name for row in rows for name in row)])
                writer.writeheader()
                writer.writerows(rows)
    except (OSError, ValueError) as error:  # ValueError: a null byte
        raise UserError(f"cannot write {path}: {reason(error)}; give another file with --out") from error
