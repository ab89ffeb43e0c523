"""What `simulate` prints: tables of at most 80 columns."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from ..planner.failures import Job, Row, daly, young
from ..planner.machines import Computer
from ..planner.scaling import RingRow, UpdateRow
from ..planner.setup import Setup
from .plan_report import percent, seconds, size, words

BAR = 24  # columns
SHARES = """busy, idle, comm: means of all ranks; idle: waiting for other stages;
comm: communication that nothing hides, and the wait for its ranks"""
RUNS = """expected, and mean of the runs: what failures and checkpoints add to the work
+-: the standard error of that mean; -: such a job hardly ever ends
"""
LEGEND = f"""k: micro-batches; slowed: the time with slow ranks; cost: what they add
{SHARES}"""


def table(*headings: str) -> Table:
    """Return a table whose columns are aligned on the right."""
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        made.add_column(heading, justify="right", no_wrap=True)
    return made


def rings(
    rows: Sequence[RingRow], computer: Computer, nbytes: int, late: Mapping[int, float], slow: Mapping[int, float]
) -> list[Any]:
    """Return the table of flat and hierarchical rings."""
    lines = [f"All-reduce of {size(nbytes)} of float32", computer.says]
    lines += [f"{seconds(computer.latency)} and {size(computer.bandwidth)}/s between ranks of a host"]
    lines += [f"{seconds(computer.latency_between)} and {size(computer.bandwidth_between)}/s between hosts"]
    lines += [f"rank {rank} starts {seconds(by)} late" for rank, by in late.items()]
    lines += [f"messages to rank {rank} take {factor:g} times as long" for rank, factor in slow.items()]
    delayed = bool(late or slow)
    found = table("ranks", "flat", "hierarchical", "flat/hier.", *["flat then", "hier. then"] * delayed)
    for row in rows:
        more = [seconds(row.flat_delayed), seconds(row.hierarchical_delayed)] * delayed
        ratio = f"{row.flat / row.hierarchical:.2f}" if row.hierarchical else "-"
        found.add_row(f"{row.ranks:,}", seconds(row.flat), seconds(row.hierarchical), ratio, *more)
    return ["\n".join(lines), found, *["then: with late and slow ranks"] * delayed]


def updates(model: str, setup: Setup, named: Mapping[str, Sequence[UpdateRow]], slow: Mapping[int, float]) -> list[Any]:
    """Return the report of one update, or the tables of weak and strong scaling."""
    ranks = ", ".join(f"rank {rank} computes {factor:g} times as long" for rank, factor in slow.items())
    lines = [*textwrap.wrap(f"{model}: {words(setup)}", 80), *textwrap.wrap(ranks or "no rank is slow", 80)]
    if len(named["weak"]) == 1:
        return ["\n".join(lines), *one_update(named["weak"][0])]
    parts: list[Any] = ["\n".join(lines)]
    for name, says in (("weak", "grows with the ranks"), ("strong", "stays")):
        parts += [f"\n{name.capitalize()} scaling: the batch {says}", scaling(named[name])]
    if len(named["strong"]) < len(named["weak"]):
        parts.append(f"more ranks than these would have no sequence of {setup.batch:,} each")
    return [*parts, LEGEND]


def one_update(row: UpdateRow) -> list[Any]:
    """Return the report of an update: its shares, and who waits for slow ranks."""
    found = table("", "alone", "", "with slow ranks", "")
    for name in ("time", "busy", "bubble", "exposed"):
        cells = [
            cell for each in (row.alone, row.slowed)
            for cell in (seconds(getattr(each, name)), percent(getattr(each, name) / each.time))
        ]  # fmt: skip
        found.add_row({"bubble": "idle", "exposed": "comm"}.get(name, name), *cells)
    said = f"{row.ranks:,} ranks, {row.batch:,} sequences, {row.micro_batches} micro-batches"
    delay = row.slowed.time - row.alone.time
    if delay <= 0:
        return [said, found, SHARES, "The slow ranks cost nothing."]
    cost = f"The slow ranks cost everyone {seconds(delay)}, {percent(row.cost)} of the time."
    cost += "\nHow much longer others wait for each other, on average:"
    axes = [*dict.fromkeys(axis for blocked in row.waiting.values() for axis in blocked)]
    waits = table("others", *(f"along {axis}" for axis in axes))
    for name, blocked in row.waiting.items():
        waits.add_row(name, *(signed(blocked.get(axis, 0.0)) for axis in axes))
    return [said, found, SHARES, cost, waits]


def signed(time: float) -> str:
    """Format a difference of seconds."""
    return "-" if abs(time) < 1e-9 else ("+" if time > 0 else "-") + seconds(abs(time))


def scaling(rows: Sequence[UpdateRow]) -> Table:
    """Return the table of several numbers of ranks."""
    found = table("ranks", "dp", "batch", "k", "time", "busy", "idle", "comm", "slowed", "cost")
    for row in rows:
        a = row.alone
        found.add_row(
            f"{row.ranks:,}", str(row.dp), f"{row.batch:,}", str(row.micro_batches), seconds(a.time),
            *(percent(part / a.time) for part in (a.busy, a.bubble, a.exposed)), seconds(row.slowed.time),
            percent(row.cost),
        )  # fmt: skip
    return found


def checkpoints(job: Job, ranks: int, rows: Sequence[Row], trials: int) -> list[Any]:
    """Return the table of intervals between checkpoints, with what they and the failures add to the work."""
    lines = [
        f"{ranks:,} ranks, {seconds(job.work)} of work; one of them fails every {seconds(job.mtbf)}",
        f"A checkpoint takes {seconds(job.checkpoint)}, a restart {seconds(job.restart)}.",
        f"best interval: Young {seconds(young(job))}, Daly {seconds(daly(job))}",
    ]
    found = table("interval", "expected", f"of {trials:,} runs", "+-", "")
    found.add_column("", no_wrap=True)
    over = lambda time: time / job.work - 1
    longest = max((over(row.expected) for row in rows if row.mean < math.inf), default=1)
    for row in rows:
        cells = ["-", "-", ""]
        if row.mean < math.inf:
            bar = "#" * max(1, round(BAR * over(row.expected) / longest))
            cells = [percent(over(row.mean)), f"{100 * row.error / job.work:.2f}%", bar]
        expected = percent(over(row.expected)) if over(row.expected) < 100 else "-"
        found.add_row(seconds(row.interval), expected, *cells[:2], row.name, cells[2])
    return ["\n".join(lines), found, RUNS]
