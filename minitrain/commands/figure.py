"""Write the numbers of a command to its folder, and a picture of them if matplotlib is installed."""

import importlib.util
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .run_folder import write_somewhere


def write(path: Path, numbers: Any, draw: Callable[[Any], None]) -> str:
    """Write the numbers to `path` as JSON, and an SVG by draw(axes) next to it. Return a message for the user.

    Raise UserError if there is no folder to write to.
    """
    there, trouble = write_somewhere(path, lambda to: to.write_text(json.dumps(numbers) + "\n", "utf-8"))
    if importlib.util.find_spec("matplotlib") is None:
        message = f"wrote {there}, but no picture: matplotlib is not installed. Run pip install matplotlib"
    else:
        picture, more = write_somewhere(there.with_suffix(".svg"), partial(_picture, draw))
        message, trouble = f"wrote {there} and {picture}", trouble or more
    return f"{message}\n{trouble}" if trouble else message


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
