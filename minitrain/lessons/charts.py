"""Text charts, and pictures in the style and the colors of minitrain.observe.palette."""

from collections.abc import Sequence
from typing import Any

from ..observe.draw import bars, chart
from ..observe.palette import FILLS, INK, LINES, SHADE, TEXT_ON, figure

__all__ = ["FILLS", "INK", "LINES", "SHADE", "TEXT_ON", "bars", "chart", "figure", "squares"]


def squares(axes: Any, numbers: Sequence[Sequence[int]], least: int, **labels: str) -> None:
    """Draw a square for each number, rows from top to bottom. The darkest of the four fills is for least + 3."""
    for row, line in enumerate(numbers):
        for column, number in enumerate(line):
            fill = FILLS[number - least]
            axes.bar(column, 1, 1, row - 0.5, color=fill)
            axes.text(column, row, str(number), color=TEXT_ON[fill], ha="center", va="center")
    rows, columns = len(numbers), len(numbers[0])
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), **labels)
    axes.set(xticks=range(columns), yticks=range(rows))
    axes.tick_params(length=0)
