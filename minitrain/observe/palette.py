"""The colors and the style of every picture, and `figure`, which draws one with matplotlib.

A picture has no background, so it lies on the page's own, white or black. Text and outlines are a mid-gray that is
readable on both, and slightly lighter where the viewer reports a dark theme. Either gray is readable on the other page
as well, because the theme a viewer reports is not always the page's own: a dark page in a browser with a light theme is
common, and PNG, PDF and many SVG viewers have no themes at all. Black text that only a theme turns white would be lost.

Lines are visible on both pages, too. Each has its own dashes, for curves that coincide and for print in gray. Fills get
darker from the first to the last, so they also work as a scale; an outline separates them from the page. All of them
are distinct for color-blind readers. `tests/observe/test_palette.py` computes all this.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError

INK, INK_IN_THE_DARK = "#757575", "#7d7d7d"  # text and outlines
LINES = ("#0066aa", "#bb8855", "#0099ff", "#885500")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))  # their number and that of LINES are coprime
FILLS = ("#fdf080", "#b2cea6", "#52acb8", "#1f3f94")
TEXT_ON = dict(zip(FILLS, ("#101010", "#101010", "#101010", "#ffffff"), strict=True))  # fill -> color of text on it
SHADE = 0.3  # opacity of INK, for a large area behind other things

DARK_THEME = "@media (prefers-color-scheme: dark) {{ {} }}".format(
    " ".join(f'[style*="{what}: {INK}"] {{ {what}: {INK_IN_THE_DARK} !important; }}' for what in ("fill", "stroke"))
)


def style() -> dict[str, Any]:
    """Return matplotlib's settings. Raise ImportError without matplotlib."""
    from cycler import cycler  # a part of matplotlib

    parts = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    cycle = cycler(color=LINES * len(DASHES)) + cycler(linestyle=DASHES * len(LINES))  # each pair once
    return {
        **dict.fromkeys((*parts, "patch.edgecolor", "hatch.color"), INK),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
        **{"patch.force_edgecolor": True, "patch.linewidth": 0.8, "hatch.linewidth": 0.6},
        **{"axes.prop_cycle": cycle, "axes.spines.top": False, "axes.spines.right": False},
        **{"font.size": 9, "legend.frameon": False, "legend.handlelength": 2.6},  # long enough for the dashes
        **{"svg.fonttype": "none", "svg.hashsalt": "minitrain"},  # text as text; the same file for the same picture
    }


@contextlib.contextmanager
def figure(path: str | Path, rows: int = 1, columns: int = 1, height: float = 3.2) -> Iterator[Any]:
    """Draw a picture: with figure("loss.svg") as axes: ...; several rows or columns yield an array of axes.

    The ending of the path selects the format. Raise UserError without matplotlib.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure  # not pyplot, which would change the backend of a notebook
    except ImportError as error:
        raise UserError("a figure needs matplotlib: pip install matplotlib") from error
    is_svg = str(path).endswith(".svg")
    with matplotlib.rc_context(style()):
        picture = Figure(figsize=(7.0, height), layout="constrained")
        yield picture.subplots(rows, columns)
        picture.savefig(path, dpi=120, metadata={"Date": None} if is_svg else None)
    if is_svg:
        svg = Path(path).read_text("utf-8")
        Path(path).write_text(re.sub("(?=</style>)", f"{DARK_THEME}\n  ", svg, count=1), "utf-8")
