"""The command line: python -m minitrain COMMAND. A command's options are its dataclass's fields."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import tyro

from .commands.compare import Precisions, Schedules
from .commands.compare_model import CompareModel
from .commands.doctor import Doctor
from .commands.lr_range import LrRange
from .commands.memory import Memory
from .commands.sample import Sample
from .commands.timeline import TimelineOf
from .commands.train import Train
from .environment import launched
from .errors import UserError
from .runtime.launchers import tell
from .runtime.say import watching_output


@dataclass(frozen=True)
class Compare:
    """Compare runs that differ in one thing only."""

    what: (
        Annotated[Schedules, tyro.conf.subcommand("schedules", prefix_name=False)]
        | Annotated[Precisions, tyro.conf.subcommand("precision", prefix_name=False)]
        | Annotated[CompareModel, tyro.conf.subcommand("model", prefix_name=False)]
    )
    """What is compared."""

    def run(self) -> int:
        """What was asked for."""
        return self.what.run()


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[LrRange, tyro.conf.subcommand("lr-range")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Memory, tyro.conf.subcommand("memory")]
    | Annotated[TimelineOf, tyro.conf.subcommand("timeline")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; the exit status is 0, 1 for a model that differs, or 2 for a mistake in what was asked."""
    return watching_output(partial(run, arguments))


def run(arguments: list[str] | None) -> int:
    """Runs one command, and says what is wrong with it."""
    try:
        with _only_rank_0_speaks():
            command = tyro.cli(
                Command,
                prog="python -m minitrain",
                description="The training strategies behind large models, in plain code.",
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes,),
            )
        return command.run()
    except UserError as error:
        return tell(error)


@contextlib.contextmanager
def _only_rank_0_speaks() -> Iterator[None]:
    """Under mpirun every rank reads the same command line; one message about it is enough."""
    if launched()[1] == 0:
        yield
        return
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield
