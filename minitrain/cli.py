"""The command line: python -m minitrain COMMAND. A command's options are its dataclass's fields."""

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from .environment import launched
from .errors import UserError, check_number
from .runtime.doctor import examine
from .runtime.launch import launch
from .runtime.launchers import tell
from .runtime.say import watching_output
from .train import compare, lr_range, memory, timeline
from .train.compare_model import CompareModelOptions, compare_model
from .train.config import TrainConfig
from .train.sample import generate, load_model
from .train.text import TextTrainer


@dataclass(frozen=True)
class Sample:
    """Write text with a trained model."""

    checkpoint: Path = Path("build/run/model.safetensors")
    """The model, as `train` saved it."""
    prompt: str = "\n"
    """The text to go on from."""
    length: int = 400
    """Characters to write."""
    temperature: float = 0.8
    """Below 1: more careful; above: bolder; 0: always the most probable character."""
    seed: int = 1
    """Another seed writes another text."""

    def run(self) -> int:
        """Prints the prompt and what the model makes of it; one process is enough."""
        if launched()[1] != 0:
            return 0
        model, config, tokenizer = load_model(self.checkpoint)
        prompt = tokenizer.encode(self.prompt)
        ids = generate(model, config.context, prompt, self.length, self.temperature, self.seed)
        print(self.prompt + tokenizer.decode(ids))
        return 0


@dataclass(frozen=True)
class Doctor:
    """Look at this machine: will `mpirun` work, and if not, what helps?"""

    seconds: float = 30.0
    """Time limit of the two-rank run."""

    def run(self) -> int:
        """Status 0 when all is well."""
        check_number("--seconds", self.seconds, "above 0")
        return examine(min(self.seconds, threading.TIMEOUT_MAX))


@dataclass(frozen=True)
class Train(TrainConfig):
    """Train a GPT on text, on one process or under `mpirun -n 2`."""

    def run(self) -> int:
        """Trains, saves, and shows a sample."""
        with launch() as world:
            trainer = TextTrainer(self, world)
            trainer.fit()
            divided = self.strategy.zero == 3 or self.parallel.tp > 1 or self.parallel.pp > 1
            if self.report.sample and (world.rank == 0 or divided):
                rule = "-" * 80
                trainer.say(f"{rule}\n{trainer.sample(self.report.sample)}\n{rule}")
            trainer.close()
        return 0


@dataclass(frozen=True)
class Memory(TrainConfig):
    """Show what each rank holds during one update, with the options of train."""

    def run(self) -> int:
        """Two updates, of which the second is drawn."""
        with launch() as world:
            text = memory.show(self, world)
            if world.rank == 0:
                print(text, flush=True)
        return 0


@dataclass(frozen=True)
class TimelineOf(TrainConfig):
    """Draw what each rank of a pipeline does in an update, in virtual time, with the options of train."""

    svg: Path | None = None
    """Write the drawing as a picture to this file, too."""

    def run(self) -> int:
        """One update, drawn."""
        with launch() as world:
            text = timeline.show(self, world, self.svg)
            if world.rank == 0:
                print(text, flush=True)
        return 0


@dataclass(frozen=True)
class LrRange(TrainConfig):
    """Let the learning rate grow until the loss explodes, and name one to use."""

    least: float = 1e-5
    """The first learning rate."""
    most: float = 1.0
    """The last one, unless the loss explodes before."""
    updates: int = 100
    """Of the test, in the place of --steps."""

    def run(self) -> int:
        """A chart, the curve in the folder --out, and a rate."""
        with launch() as world:
            text = lr_range.show(self, world, self.least, self.most, self.updates)
            if world.rank == 0:
                print(text, flush=True)
        return 0


class Comparison(compare.CompareOptions):
    """What the two comparisons on the digits have in common."""

    def run(self) -> int:
        """A chart and a table, and the numbers in the folder --out."""
        with launch() as world:
            text = compare.run(self, world)
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


@dataclass(frozen=True)
class CompareModel(CompareModelOptions):
    """A model of your own on a mesh: is it the same training run as on one process?

    mpirun -n 4 python -m minitrain compare model my.py:make_model --tp 2 --sp

    Loss, gradients and parameters have to be equal to 1e-12, in float64.

    Status: 0 when they are, 1 when one differs, 2 when the model is refused.
    """

    def run(self) -> int:
        """The tables and the verdict."""
        with launch() as world:
            found = compare_model(self, world)
            if world.rank == 0:
                print(found.text, flush=True)
        return 0 if found.equal else 1


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
