"""Pictures: text charts from minitrain.observe.draw, and SVG for a README."""

import contextlib
from collections.abc import Iterator
from typing import Any

from minitrain.errors import UserError
from minitrain.observe.draw import bars, chart

__all__ = ["bars", "chart", "figure"]


@contextlib.contextmanager
def figure(path: str, rows: int = 1, columns: int = 1, height: float = 3.2) -> Iterator[Any]:
    """Draw a picture in the lessons' style: with figure("loss.svg") as axes: ...; several rows yield several axes.

    Raise UserError if matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("a figure needs matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    style = {"svg.hashsalt": "minitrain", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with pyplot.rc_context(style):
        picture, axes = pyplot.subplots(rows, columns, figsize=(7.0, height), layout="constrained")
        yield axes
        picture.savefig(path, dpi=120, metadata={"Date": None} if str(path).endswith(".svg") else None)
        pyplot.close(picture)
