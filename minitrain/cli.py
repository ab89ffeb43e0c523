"""The command line: python -m minitrain COMMAND. The options of a command are the fields of its dataclass."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import tyro

from .commands.compare import Precisions, Schedules
from .commands.compare_model import CompareModel
from .commands.convert import Export, Import
from .commands.doctor import Doctor
from .commands.draw.command import Draw
from .commands.inspect import Inspect
from .commands.lr_range import LrRange
from .commands.memory import Memory
from .commands.plan import Plan
from .commands.run_checkpoints import resumed
from .commands.sample import Sample
from .commands.simulate import Simulate
from .commands.start import started
from .commands.timeline import TimelineOf
from .commands.tokenizer import TrainTokenizer
from .commands.train import Train
from .environment import launched
from .errors import UserError
from .runtime.mpirun import report_error
from .runtime.output import watching_output


@dataclass(frozen=True)
class Compare:
    """Compare runs that differ in one thing only."""

    what: (
        Annotated[Schedules, tyro.conf.subcommand("schedules", prefix_name=False)]
        | Annotated[Precisions, tyro.conf.subcommand("precision", prefix_name=False)]
        | Annotated[CompareModel, tyro.conf.subcommand("model", prefix_name=False)]
    )
    """What to compare."""

    def run(self) -> int:
        """Run the chosen comparison and return its exit status."""
        return self.what.run()


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[LrRange, tyro.conf.subcommand("lr-range")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Memory, tyro.conf.subcommand("memory")]
    | Annotated[TimelineOf, tyro.conf.subcommand("timeline")]
    | Annotated[Plan, tyro.conf.subcommand("plan")]
    | Annotated[Simulate, tyro.conf.subcommand("simulate")]
    | Annotated[Draw, tyro.conf.subcommand("draw")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[TrainTokenizer, tyro.conf.subcommand("tokenizer")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 1 if two models differ, 2 for a user error, 130 for Ctrl-C."""
    return watching_output(partial(run, arguments))


def run(arguments: list[str] | None) -> int:
    """Run one command and return its exit status. Print a UserError instead of raising it."""
    try:
        words = list(sys.argv[1:] if arguments is None else arguments)
        default = started(words, resumed(words, Train())) if words[:1] == ["train"] else tyro.MISSING_NONPROP
        with _only_rank_0_speaks():
            command = tyro.cli(
                Command,
                prog="python -m minitrain",
                description="The training strategies behind large models, in plain code.",
                args=words,
                default=default,
                config=(tyro.conf.OmitArgPrefixes,),
            )
        return command.run()
    except UserError as error:
        return report_error(error)
    except KeyboardInterrupt:  # without ranks; with them, launch speaks
        sys.stderr.write("\nminitrain: interrupted\n")
        return 130


@contextlib.contextmanager
def _only_rank_0_speaks() -> Iterator[None]:
    """Silence all ranks but 0: under mpirun every rank parses the same command line."""
    if launched()[1] == 0:
        yield
        return
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield
