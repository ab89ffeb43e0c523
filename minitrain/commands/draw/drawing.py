"""What all figures have in common: numbers, a function that draws them, and the same numbers as text.

    python -m minitrain draw loss build/run build/run.1
    build/figures/loss.svg  loss.png  loss.json

A figure's file has a pure function that computes its numbers, from formulas, a log or a real update; one that draws
them on matplotlib's axes; and a class with its options, whose `drawing` puts the two together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any, ClassVar

from ...environment import launched
from ...errors import UserError, reason
from ...train.progress import Progress
from .. import figure

Numbers = dict[str, Any]  # plain values, as JSON has them


@dataclass(frozen=True)
class Drawing:
    """A figure, before it is written.

    numbers: its data. draw: called with the axes; several rows or columns are an array of axes. text: the data for a
    terminal, at most 80 columns wide. height: inches; the width is 7.
    """

    numbers: Numbers
    draw: Callable[[Any], None]
    text: str
    rows: int = 1
    columns: int = 1
    height: float = 3.2


def left_out(names: Mapping[str, str]) -> list[str]:
    """Return lines that say why something is not drawn. names: name -> reason."""
    lines = [wrap(f"left out: {name}: {why}", 80, subsequent_indent="  ") for name, why in names.items()]
    return ["", *(line for few in lines for line in few)] if lines else []


@dataclass(frozen=True)
class Picture:
    """Options of every figure. A subclass has a name, that of the files, and `drawing`."""

    to: Path = Path("build/figures")
    """Folder for the figure as SVG and PNG, and for its numbers as JSON. Earlier files of these names are replaced."""

    name: ClassVar[str]

    def drawing(self) -> Drawing:
        """Return the figure. Raise UserError for invalid options."""
        raise NotImplementedError

    def run(self) -> int:
        """Print the figure as text and write its files; under mpirun, on rank 0. Raise UserError for a bad folder."""
        if launched()[1] != 0:
            return 0
        try:
            self.to.mkdir(parents=True, exist_ok=True)  # before a long computation
        except OSError as error:
            raise UserError(f"--to is {self.to}: {reason(error)}; give another folder") from error
        with Progress().task(self.name):
            made = self.drawing()
        print(made.text, flush=True)
        path, layout = self.to / f"{self.name}.json", (made.rows, made.columns, made.height)
        print("\n" + figure.write(path, made.numbers, made.draw, (".svg", ".png"), *layout), flush=True)
        return 0
