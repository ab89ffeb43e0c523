"""Pictures: as text from minitrain.observe.draw, and as SVG for a README."""

import contextlib
from collections.abc import Iterator
from typing import Any

from minitrain.errors import UserError
from minitrain.observe.draw import bars, chart

__all__ = ["bars", "chart", "figure"]


@contextlib.contextmanager
def figure(path: str, rows: int = 1, columns: int = 1, height: float = 3.2) -> Iterator[Any]:
    """with figure("loss.svg") as axes: ... draws a picture in the style of all lessons; several rows give several axes.

    Raises UserError when matplotlib is missing.
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
