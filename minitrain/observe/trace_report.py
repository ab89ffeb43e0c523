"""A trace at a glance: one update as a text chart and as a picture, and a table of where the time went.

The chart has two rows per rank, and one for each of its communication threads. A column shows what took most of its
time; the picture has everything.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from .palette import FILLS, INK, SHADE, TEXT_ON, figure
from .recorder import COMMUNICATION, COMPUTE, Recorded, Span
from .trace_times import Interval, Intervals, Times, both, length, merged, times_of, without

WIDTH = 80
MOVED, LATE, OTHER, RECOMPUTED, OPTIMIZER = "=-:ro"
SHORT = {COMMUNICATION: "comm."}  # labels of rows
DIGITS, LETTERS = "0123456789", "abcdefghij"
SYMBOLS: dict[str, Callable[[int], str]] = {  # kind -> symbol for a micro-batch, as in `timeline`
    "recompute": lambda micro: RECOMPUTED,
    "optimizer": lambda micro: OPTIMIZER,
    **dict.fromkeys(("forward", "F"), lambda micro: DIGITS[micro % 10]),
    **dict.fromkeys(("backward", "B", "I"), lambda micro: LETTERS[micro % 10]),
    "W": lambda micro: LETTERS[micro % 10].upper(),
}
LEGEND = (
    (DIGITS, "0-9 forward of a micro-batch"),
    (LETTERS, "a-j its backward"),
    (LETTERS.upper(), "A-J its weight gradients"),
    (RECOMPUTED, "r recomputing"),
    (OPTIMIZER, "o norm and optimizer"),
    (OTHER, ": other computing"),
    (MOVED, "= moving data"),
    (LATE, "- waiting for another rank"),
)
FILL = {  # kind -> color, and what it is
    "forward": (FILLS[0], "forward"),
    "I": (FILLS[1], "gradient of inputs"),
    "backward": (FILLS[2], "backward"),
    "W": (FILLS[3], "gradient of weights"),
}
SAME = {"F": "forward", "B": "backward"}


def text(ranks: Sequence[Recorded]) -> str:
    """Return the chart of the last update and the table of all, at most 80 columns wide."""
    times = times_of(ranks)
    window = last_update(times)
    if window is None:
        return "no update was recorded"
    return f"{chart(ranks, times, window)}\n\n{table(ranks, times)}"


def last_update(times: Sequence[Times]) -> Interval | None:
    """Return from when to when some rank was in its last update, or None if not every rank made one."""
    if not all(of_rank.updates for of_rank in times):
        return None
    last = [of_rank.updates[-1] for of_rank in times]
    return min(begin for begin, _ in last), max(end for _, end in last)


# The chart ------------------------------------------------------------------------------------------------------------


def chart(ranks: Sequence[Recorded], times: Sequence[Times], window: Interval) -> str:
    """Return the rows of all ranks from window[0] to window[1] (ns), and what their symbols mean."""
    labels, rows = [], []
    for rank, of_rank in zip(ranks, times, strict=True):
        name = f"rank {rank.rank}"
        for i, (lane, parts) in enumerate(lanes(rank, of_rank)):
            labels.append(f"{'' if i else name:<{len(name)}} {SHORT.get(lane, lane)} ")
            rows.append(parts)
    margin = max(map(len, labels))
    columns = WIDTH - margin
    lines = [f"{label:<{margin}}{painted(parts, window, columns)}" for label, parts in zip(labels, rows, strict=True)]
    used = set("".join(line[margin:] for line in lines))
    ms = (window[1] - window[0]) / 1e6
    head = f"{named(ranks)}: {ms:.1f} ms on the wall clock; a column is {ms / columns:.2g} ms"
    return "\n".join([head, *wrapped([what for symbols, what in LEGEND if used & set(symbols)]), *lines])


def lanes(rank: Recorded, times: Times) -> Iterator[tuple[str, dict[str, Intervals]]]:
    """Yield (lane, symbol -> intervals) for each row of a rank."""
    yield COMPUTE, by_symbol(rank, times)
    yield COMMUNICATION, {MOVED: times.exposed, LATE: times.waiting}
    for lane in sorted(set(times.moved) - {COMMUNICATION}):
        yield lane, {MOVED: times.moved[lane], LATE: times.late[lane]}


def by_symbol(rank: Recorded, times: Times) -> dict[str, Intervals]:
    """Return symbol -> the intervals in which the rank's main thread computed it."""
    found: dict[str, list[Interval]] = {}
    for kind, symbol_of in SYMBOLS.items():  # what is recomputed comes first: it is a part of backward
        for span in rank.lanes[COMPUTE]:
            if span.kind == kind:
                found.setdefault(symbol_of(span.details.get("micro", 0)), []).append((span.begin, span.end))
    parts, rest = {}, times.computing
    for symbol, intervals in found.items():
        parts[symbol] = both(rest, merged(intervals))
        rest = without(rest, parts[symbol])
    return parts | {OTHER: rest}


def painted(parts: Mapping[str, Intervals], window: Interval, columns: int) -> str:
    """Return a row: in each column the symbol that took most of its time, or a blank if nothing did."""
    begin, end = window
    edges = [begin + (end - begin) * i // columns for i in range(columns + 1)]
    row = ""
    for lo, hi in pairwise(edges):
        taken = {symbol: length(both([(lo, hi)], intervals)) for symbol, intervals in parts.items()}
        taken[" "] = hi - lo - sum(taken.values())
        row += max(taken, key=lambda symbol: taken[symbol])
    return row.rstrip()


def named(ranks: Sequence[Recorded]) -> str:
    """Return the name of the last update."""
    return [span.name for span in ranks[0].lanes[COMPUTE] if span.kind == "update"][-1]


def wrapped(phrases: Sequence[str]) -> list[str]:
    """Return the phrases in lines."""
    lines = [""]
    for phrase in phrases:
        longer = f"{lines[-1]}, {phrase}" if lines[-1] else phrase
        lines[-1:] = [longer] if len(longer) <= WIDTH else [lines[-1], phrase]
    return lines


# The table ------------------------------------------------------------------------------------------------------------


def table(ranks: Sequence[Recorded], times: Sequence[Times]) -> str:
    """Return where the time of all updates went, rank by rank, and the most memory that was seen."""
    count = len([span for span in ranks[0].lanes[COMPUTE] if span.kind == "update"])
    lines = [f"% of {count} update(s)   computing   communicating   waiting   hidden   most memory"]
    for rank, of_rank in zip(ranks, times, strict=True):
        parts = (of_rank.computing, of_rank.exposed, of_rank.waiting, of_rank.hidden)
        computing, exposed, late, hidden = (f"{100 * of_rank.fraction(part):.1f}" for part in parts)
        most = max((sum(live.values()) for _, live in rank.memory), default=0) / 2**20
        lines.append(f"rank {rank.rank:<14}{computing:>10}{exposed:>16}{late:>10}{hidden:>9}{most:>10,.1f} MiB")
    notes = [
        "hidden: data moved by a communication thread while the main thread computes",
        "most memory: of some moments; python -m minitrain memory finds the peak",
    ]
    return "\n".join([*lines, *notes])


# The picture ----------------------------------------------------------------------------------------------------------


def draw(path: Path, ranks: Sequence[Recorded]) -> None:
    """Draw the last update, if there is one. Raise UserError without matplotlib."""
    times = times_of(ranks)
    window = last_update(times)
    if window is None:
        return
    both_of = list(zip(ranks, times, strict=True))
    rows = [(i, lane) for i, (rank, of_rank) in enumerate(both_of) for lane, _ in lanes(rank, of_rank)]
    heights = [-y - 0.6 * i for y, (i, _) in enumerate(rows)]  # with a gap between ranks
    labels = [f"rank {ranks[i].rank}" if lane == COMPUTE else SHORT.get(lane, lane) for i, lane in rows]
    with figure(path, height=1.2 + 0.25 * len(rows)) as axes:
        used: dict[str, Any] = {}
        for y, (i, lane) in zip(heights, rows, strict=True):
            if lane == COMPUTE:
                used |= draw_work(axes, y, *both_of[i], window)
            else:
                used |= draw_talk(axes, y, times[i], lane, window)
        axes.set_yticks(heights, labels)
        axes.set(xlim=(0, (window[1] - window[0]) / 1e6), xlabel=f"ms of {named(ranks)}")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        known = [what for what in ORDER if what in used]
        handles = [used[what] for what in known]
        axes.legend(
            handles,
            known,
            loc="lower center",
            bbox_to_anchor=(0.5, 1),
            ncols=5 if len(known) < 6 else 4,
            fontsize=8,
            handlelength=1.6,
        )


ORDER = [*(what for _, what in FILL.values()), "recomputing", "optimizer", "moving data", "waiting"]


def bars(axes: Any, y: float, intervals: Intervals, window: Interval, **style: Any) -> Any:
    """Draw intervals as bars at height y."""
    inside = [((lo - window[0]) / 1e6, (hi - lo) / 1e6) for lo, hi in both(intervals, [window])]
    return axes.broken_barh(inside, (y - 0.4, 0.8), **{"linewidth": 0.4, **style}) if inside else None


def draw_work(axes: Any, y: float, rank: Recorded, times: Times, window: Interval) -> dict[str, Any]:
    """Draw what a rank computes. Return what was drawn, for the legend."""
    used = {}
    for span in rank.lanes[COMPUTE]:
        kind = SAME.get(span.kind, span.kind)
        if kind in FILL and span.begin >= window[0]:
            color, what = FILL[kind]
            computed = both(times.computing, [(span.begin, span.end)])
            if (drawn := bars(axes, y, computed, window, facecolor=color, edgecolor=INK)) is not None:
                used[what] = drawn
                label(axes, y, span, computed, window, color)
    hatched = {"recompute": ("////", "recomputing"), "optimizer": ("xxxx", "optimizer")}
    for kind, (hatch, what) in hatched.items():
        intervals = merged((span.begin, span.end) for span in rank.lanes[COMPUTE] if span.kind == kind)
        style = {"facecolor": "none", "edgecolor": INK, "hatch": hatch}
        if (drawn := bars(axes, y, both(intervals, times.computing), window, **style)) is not None:
            used[what] = drawn
    return used


def label(axes: Any, y: float, span: Span, computed: Intervals, window: Interval, color: str) -> None:
    """Write the number of the micro-batch on a bar that is wide enough."""
    lo, hi = max(computed, key=lambda interval: interval[1] - interval[0])
    if hi - lo > 0.02 * (window[1] - window[0]) and "micro" in span.details:
        middle = ((lo + hi) / 2 - window[0]) / 1e6
        axes.text(middle, y, span.details["micro"], ha="center", va="center", fontsize=7, color=TEXT_ON[color])


def draw_talk(axes: Any, y: float, times: Times, lane: str, window: Interval) -> dict[str, Any]:
    """Draw when data are moved in a lane, and when it waits. Return what was drawn, for the legend."""
    main = lane == COMMUNICATION
    moved, late = (times.exposed, times.waiting) if main else (times.moved[lane], times.late[lane])
    drawn = {
        "waiting": bars(axes, y, late, window, facecolor=INK, alpha=SHADE, linewidth=0),
        "moving data": bars(axes, y, moved, window, facecolor=INK, edgecolor=INK),
    }
    return {what: bar for what, bar in drawn.items() if bar is not None}
