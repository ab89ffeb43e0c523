"""What a command leaves in its folder: its numbers, and a picture of them where matplotlib is installed."""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UserError


def open_folder(folder: Path, *names: str) -> None:
    """Makes the folder for these files, before any work is done for them. Raises UserError when it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in (folder / name for name in names):
            if path.is_dir():
                raise IsADirectoryError(0, f"{path.name} is a folder")
        if not os.access(folder, os.W_OK):
            raise PermissionError(0, "that is not allowed")
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror}; choose another folder with --out") from error


def write(path: Path, numbers: Any, draw: Callable[[Any], None]) -> str:
    """The numbers into `path`, a JSON file, and beside it an SVG by draw(axes of matplotlib). Returns what to say."""
    path.write_text(json.dumps(numbers) + "\n", "utf-8")
    picture = path.with_suffix(".svg")
    if importlib.util.find_spec("matplotlib") is None:
        return f"wrote {path}; no picture beside it, for which matplotlib is missing: pip install matplotlib"
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    style = {"svg.hashsalt": "minitrain", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(7.0, 3.6), layout="constrained")
        draw(axes)
        figure.savefig(picture, metadata={"Date": None})
        pyplot.close(figure)
    return f"wrote {path} and {picture}"
