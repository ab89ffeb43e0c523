"""Pictures of the window: which sizes of numbers float16 can hold, and where the gradients are."""

from collections.abc import Mapping

import numpy as np

from minitrain.lessons.charts import FILLS, INK, SHADE, figure
from minitrain.parallel.reducer import Reducer

LOW, BOTTOM, NORMAL, TOP, HIGH = -44, -24, -14, 16, 20  # powers of two; float16's are from BOTTOM to TOP
GOOD, POWERS = 2.0**24, (0, 8, 12, 16, 24)


def all_of(reducer: Reducer) -> np.ndarray:
    """The gradients that are not 0, end to end."""
    g = np.concatenate([owned.grad for owned in reducer.owned()])
    return g[g != 0]


def lost(g: np.ndarray, S: float) -> float:
    """The share of these gradients of which float16 makes 0, multiplied by S before; inf if one overflows."""
    with np.errstate(over="ignore"):
        half = (g * np.float32(S)).astype(np.float16)
    return float(np.mean(half == 0)) if np.isfinite(half).all() else np.inf


def sizes(g: np.ndarray, S: float) -> np.ndarray:
    """The share of S g in each power of two from LOW to HIGH."""
    return np.histogram(np.log2(np.abs(g.astype(float)) * S), np.arange(LOW, HIGH + 1))[0] / len(g)


def text(g: np.ndarray, height: int = 5) -> str:
    """Two histograms of log2 |S g|, a column a power of two, and what float16 has there."""
    one, many = (sizes(g, S) / sizes(g, 1).max() * height for S in (1, GOOD))
    at = lambda y: "".join("o" if a > y else "#" if b > y else " " for a, b in zip(one, many, strict=True)).rstrip()
    ruler = "".join(c * n for c, n in zip("-~=-", np.diff((LOW, BOTTOM, NORMAL, TOP, HIGH)), strict=True))
    head = "log2 of the last update's gradients:   o S = 1   # S = 2^24   ~= float16"
    lines = [f"  |{at(y + 0.3)}" for y in range(height)[::-1]]
    return "\n".join([head, *lines, f"  +{ruler}", f"   {LOW:<20}{BOTTOM:<10}{NORMAL:<14}{0:<16}{TOP}"])


def table(reducer: Mapping[str, np.ndarray]) -> str:
    """The share of which float16 makes 0, for several S."""
    lines = ["become 0     " + "".join(f"{f'S = 2^{k}':>12}" for k in POWERS)]
    for name, g in reducer.items():
        lines.append(f"{name:<13}" + "".join(f"{percent(lost(g, 2.0**k)):>12}" for k in POWERS))
    return "\n".join(lines)


def percent(share: float) -> str:
    """Nothing finer than a percent is the same on every machine."""
    if share in (0, np.inf):
        return "overflow" if share else "0 %"
    return "under 1 %" if share < 0.01 else f"≈ {100 * share:.1f} %"


def draw(g: np.ndarray, path: str) -> None:
    """The histogram and the window of float16, with S = 1 and with GOOD."""
    with figure(path, rows=2, height=3.6) as axes:
        for ax, S, label in zip(axes, (1, GOOD), ("S = 1", "S = $2^{24}$"), strict=True):
            ax.axvspan(BOTTOM, NORMAL, ymax=0.75, fill=False, hatch="///", edgecolor=INK, label="float16, fewer digits")
            ax.axvspan(NORMAL, TOP, ymax=0.75, color=INK, alpha=SHADE, label="float16")
            ax.bar(np.arange(LOW, HIGH), sizes(g, S), width=1, align="edge", color=FILLS[2], label="gradients")
            ax.set(ylabel="share", xlim=(LOW, HIGH), title=f"{label}: {100 * lost(g, S):.1f} % become 0 in float16")
        axes[0].legend(loc="upper right", ncols=3, borderaxespad=0)
        axes[1].set_xlabel("log2 of the size of the gradients of the last update, times the scale S")
