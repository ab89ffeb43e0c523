"""Write the numbers of a command to its folder, and pictures of them if matplotlib is installed."""

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..observe import palette
from .run_folder import write_somewhere


def write(
    path: Path,
    numbers: Any,
    draw: Callable[[Any], None],
    endings: Sequence[str] = (".svg",),
    rows: int = 1,
    columns: int = 1,
    height: float = 3.6,
) -> str:
    """Write the numbers to `path` as JSON, and pictures by draw(axes) next to it. Return a message for the user.

    endings: a picture for each. rows, columns, height: see `palette.figure`. Raise UserError if there is no folder to
    write to.
    """
    there, trouble = write_somewhere(path, lambda to: to.write_text(json.dumps(numbers) + "\n", "utf-8"))
    if importlib.util.find_spec("matplotlib") is None:
        message = f"wrote {there}, but no picture: matplotlib is not installed. Run pip install matplotlib"
        return f"{message}\n{trouble}" if trouble else message

    def picture(to: Path) -> None:
        with palette.figure(to, rows, columns, height) as axes:
            draw(axes)

    written = [str(there)]
    for ending in endings:
        image, more = write_somewhere(there.with_suffix(ending), picture)
        written.append(str(image))
        trouble = trouble or more
    message = f"wrote {', '.join(written[:-1])} and {written[-1]}"
    return f"{message}\n{trouble}" if trouble else message
