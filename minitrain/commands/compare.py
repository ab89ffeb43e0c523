"""The command `compare`: runs that differ in one thing only."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import tyro

from ..comm.communicator import Communicator
from ..runtime.launch import launch
from .compare_precision import precisions
from .compare_schedules import schedules
from .comparison import CompareOptions
from .folder import RunFolder

COMPARISONS: dict[str, Callable[[CompareOptions, Communicator, RunFolder], str]] = {
    "schedules": schedules,
    "precision": precisions,
}


def run(options: CompareOptions, world: Communicator) -> str:
    """The comparison that was asked for; called by all ranks. Raises UserError for wrong options."""
    options.check()
    names = f"{options.what}.json", f"{options.what}.svg"
    aside = options.out == CompareOptions.out
    with RunFolder(world, options.out, names, options.overwrite, aside) as folder:
        return COMPARISONS[options.what](options, world, folder)


class Comparison(CompareOptions):
    """What the two comparisons on the digits have in common."""

    def run(self) -> int:
        """A chart and a table, and the numbers in the folder --out."""
        with launch() as world:
            text = run(self, world)
            if world.rank == 0:
                print(text, flush=True)
        return 0


@dataclass(frozen=True)
class Schedules(Comparison):
    """Schedules of the learning rate on the digits, each at its best peak of --lr."""

    what: tyro.conf.Suppress[Literal["schedules", "precision"]] = "schedules"


@dataclass(frozen=True)
class Precisions(Comparison):
    """16 bits with and without a loss scale, at the first learning rate of --lr."""

    what: tyro.conf.Suppress[Literal["schedules", "precision"]] = "precision"
