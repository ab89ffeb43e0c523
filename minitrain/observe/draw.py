"""Text charts, which also work over ssh."""

from collections.abc import Mapping, Sequence

import numpy as np

SYMBOLS = "o.x+*#"


def chart(
    curves: Mapping[str, Sequence[float]], y: str, x: str, width: int = 64, height: int = 12, log: bool = False
) -> str:
    """Return a text plot of the curves, `width` by `height` characters plus labels. x is the index in each sequence.

    Where curves overlap, their symbols alternate. log: use a logarithmic y axis. At most six curves are drawn.
    """
    scale = np.log10 if log else np.asarray
    rows = {name: scale(np.asarray(curve, float)) for name, curve in curves.items()}
    low = min(float(row.min()) for row in rows.values())
    high = max(float(row.max()) for row in rows.values())
    longest = max(len(row) for row in rows.values())
    field = [[" "] * width for _ in range(height)]
    layers = list(zip(SYMBOLS, rows.values(), strict=False))
    for column in range(width):
        first = column % len(layers)
        for symbol, row in reversed(layers[first:] + layers[:first]):
            i = round(column * (longest - 1) / (width - 1))
            if i < len(row):
                level = round((row[i] - low) / ((high - low) or 1.0) * (height - 1))
                field[height - 1 - level][column] = symbol
    ends = [f"{10**v:.0e}" if log else f"{v:.2f}" for v in (high, low)]
    margin = max(map(len, ends))
    labels = [ends[0], *[""] * (height - 2), ends[1]]
    lines = [f"{label:>{margin}} |{''.join(row).rstrip()}" for label, row in zip(labels, field, strict=True)]
    foot = f"{'':{margin}} +{'-' * width}\n{'':{margin}}  {x} 0 to {longest - 1}"
    legend = "   ".join(f"{symbol} {name}" for symbol, name in zip(SYMBOLS, rows, strict=False))
    return "\n".join([f"{y}{' (logarithmic)' if log else ''}:  {legend}", *lines, foot])


def bars(values: Mapping[str, float], width: int = 40) -> str:
    """Return a bar chart with one row per value, the largest bar `width` characters long."""
    most, margin = max(values.values()) or 1, max(map(len, values))
    return "\n".join(f"{name:<{margin}} |{'#' * round(width * v / most)} {v:,.10g}" for name, v in values.items())
