"""The command `compare`, for runs that differ in one thing only."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import tyro

from ..comm.communicator import Communicator
from ..runtime.launch import launch
from ..train.progress import Progress
from .compare_precision import precisions
from .compare_schedules import schedules
from .run_folder import RunFolder
from .small_runs import CompareOptions

COMPARISONS: dict[str, Callable[[CompareOptions, Communicator, RunFolder], str]] = {
    "schedules": schedules,
    "precision": precisions,
}


def run(options: CompareOptions, world: Communicator) -> str:
    """Run a comparison and return its report. All ranks call it. Raise UserError for invalid options."""
    options.check()
    names = f"{options.what}.json", f"{options.what}.svg"
    aside = options.out == CompareOptions.out
    with RunFolder(world, options.out, names, options.overwrite, aside) as folder:
        return COMPARISONS[options.what](options, world, folder)


class Comparison(CompareOptions):
    """Base class of the two comparisons on the digits."""

    def run(self) -> int:
        """Print a chart and a table; write the numbers to --out."""
        with launch() as world:
            with Progress(world).task("comparison"):
                text = run(self, world)
            if world.rank == 0:
                print(text, flush=True)
        return 0


@dataclass(frozen=True)
class Schedules(Comparison):
    """Compare learning-rate schedules on the digits, each at its best peak of --lr."""

    what: tyro.conf.Suppress[Literal["schedules", "precision"]] = "schedules"


@dataclass(frozen=True)
class Precisions(Comparison):
    """Compare 16-bit training with and without a loss scale, at the first --lr."""

    what: tyro.conf.Suppress[Literal["schedules", "precision"]] = "precision"
