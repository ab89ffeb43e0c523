"""What a command leaves in its folder: its numbers, and a picture of them where matplotlib is installed."""

import importlib.util
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .folder import write_somewhere


def write(path: Path, numbers: Any, draw: Callable[[Any], None]) -> str:
    """The numbers into `path`, a JSON file, and beside it an SVG by draw(axes of matplotlib). Returns what to say."""
    there, trouble = write_somewhere(path, lambda to: to.write_text(json.dumps(numbers) + "\n", "utf-8"))
    if importlib.util.find_spec("matplotlib") is None:
        said = f"wrote {there}; and no picture, for which matplotlib is missing: pip install matplotlib"
    else:
        picture, more = write_somewhere(there.with_suffix(".svg"), partial(_picture, draw))
        said, trouble = f"wrote {there} and {picture}", trouble or more
    return f"{said}\n{trouble}" if trouble else said


def _picture(draw: Callable[[Any], None], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    style = {"svg.hashsalt": "minitrain", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(7.0, 3.6), layout="constrained")
        draw(axes)
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)
