"""Write the numbers of a command to its folder, and a picture of them if matplotlib is installed."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..observe import palette
from .run_folder import write_somewhere


def write(path: Path, numbers: Any, draw: Callable[[Any], None]) -> str:
    """Write the numbers to `path` as JSON, and an SVG by draw(axes) next to it. Return a message for the user.

    Raise UserError if there is no folder to write to.
    """
    there, trouble = write_somewhere(path, lambda to: to.write_text(json.dumps(numbers) + "\n", "utf-8"))
    if importlib.util.find_spec("matplotlib") is None:
        message = f"wrote {there}, but no picture: matplotlib is not installed. Run pip install matplotlib"
    else:

        def picture(to: Path) -> None:
            with palette.figure(to, height=3.6) as axes:
                draw(axes)

        svg, more = write_somewhere(there.with_suffix(".svg"), picture)
        message, trouble = f"wrote {there} and {svg}", trouble or more
    return f"{message}\n{trouble}" if trouble else message
