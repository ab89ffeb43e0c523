"""The theory of the bubble; timelines as text and as a figure."""

from collections.abc import Callable, Mapping
from fractions import Fraction

from minitrain.lessons.charts import TEXT_ON, figure
from minitrain.observe.clock import COLORS, NAMES, Timeline

CLOSE = """The pipeline fills and drains in both, so gpipe and 1f1b have the same bubble.
1f1b only runs each backward earlier, so fewer activations wait for it."""


# schedule -> a function of p ranks and m micro-batches: (idle time / all time, most in flight on each rank)
THEORY: dict[str, Callable[[int, int], tuple[Fraction, list[int]]]] = {
    "naive": lambda p, m: (1 - Fraction(1, p), [1] * p),
    "gpipe": lambda p, m: (Fraction(p - 1, m + p - 1), [m] * p),
    "1f1b": lambda p, m: (Fraction(p - 1, m + p - 1), [min(m, p - r) for r in range(p)]),
    "interleaved": lambda p, m: (Fraction(p - 1, 2 * m + p - 1), [min(2 * m, 3 * p - 2 * r - 1) for r in range(p)]),
    "zb-h1": lambda p, m: (Fraction(wait := p - 1 + max(0, p - m), 3 * m + wait), [min(m, p)] * p),
}


def text(runs: Mapping[tuple[str, int], Timeline]) -> str:
    """Return the timelines, one below the other. runs: (schedule, micro-batches) -> the timeline of one update."""
    parts = ["virtual time; digits: forward, letters: backward, dots: idle"]
    if any(name == "zb-h1" for name, _ in runs):
        parts[0] += "\nsmall letters: gradients of inputs, capitals: gradients of weights"
    for (name, m), t in runs.items():
        parts.append(f"{name}, m = {m}: idle {t.idle} of the time, in flight {t.peaks}\n{t.draw()}")
    return "\n\n".join([*parts, CLOSE])


def draw(gpipe: Timeline, one_f: Timeline, path: str) -> None:
    """One above the other: a box for each instruction, with the number of its micro-batch."""
    with figure(path, rows=2, height=4.2) as axes:
        for axis, name, t in zip(axes, ("GPipe", "1F1B"), (gpipe, one_f), strict=True):
            for r, lane in enumerate(t.lanes):
                for start, end, do in lane:
                    left, width = float(start), float(end - start)
                    fill, label = COLORS[do.kind], f"{NAMES[do.kind]}, time {width:g}"
                    axis.barh(r, width, 0.9, left, color=fill, label=label if r == do.micro == 0 else None)
                    axis.text(left + width / 2, r, do.micro, color=TEXT_ON[fill], ha="center", va="center", fontsize=7)
            axis.set_yticks(range(len(t.lanes)), [f"rank {r}: {peak} in flight" for r, peak in enumerate(t.peaks)])
            axis.set_title(f"{name}: {t.idle} of the time idle", loc="left")
            axis.set_xlim(0, float(t.makespan))
            axis.invert_yaxis()
        axes[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
        axes[1].set_xlabel("virtual time; in each box the number of its micro-batch")
