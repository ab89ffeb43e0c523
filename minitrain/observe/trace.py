"""A trace: what all ranks really did and when, in a file for the viewer Perfetto.

    with trace.recording(world, "build/trace") as made:
        for batch in batches:
            trainer.step(batch)
    print(made.text)                     on rank 0: a chart, a table, and where the file is

The file is JSON in Chrome's Trace Event Format. A rank is a process in it, a lane a thread, a span a complete event
("X"). An arrow ("s", "f") leads from where a message is sent to where it arrives. Live memory is a counter ("C"). The
folder also gets a picture, if matplotlib is installed. Recording takes about 1% of the time of an update, most of it to
follow the memory; tests/benchmarks/tracing.py measures it.

https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU (Trace Event Format)
"""

import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, reason
from . import trace_report
from .clock_offset import offset_to_rank_0
from .ledger import Ledger
from .ledger import current as open_ledger
from .observer import observing
from .recorder import COMMUNICATION, COMPUTE, Recorded, Recorder, Span, opened

if TYPE_CHECKING:
    from ..comm.communicator import Communicator

NAME, PICTURE = "trace.json", "trace.svg"
BEGINNING = '{"displayTimeUnit": "ms", "otherData": {"program": "minitrain"}, "traceEvents": ['
VIEWER = "https://ui.perfetto.dev"
Event = dict[str, Any]


class Unwritten(UserError):
    """Raised when a trace has been recorded and cannot be written."""


@dataclass
class Trace:
    """A recording, once it has ended. ranks: what each of them did. text: chart and table; on rank 0 only."""

    path: Path
    ranks: Sequence[Recorded] = ()
    text: str = ""


@contextmanager
def recording(world: "Communicator", folder: Path | str) -> Iterator[Trace]:
    """Record what all ranks do inside the context, and write it to the folder. All ranks of `world` enter and leave it.

    An earlier trace in the folder is replaced. Memory is followed by the open ledger, or by one of its own. Raise
    UserError, on all ranks, if the folder cannot be written or if other files are in the way, and Unwritten if writing
    fails in the end.
    """
    path = Path(folder) / NAME
    on_rank_0(world, lambda: claim(path))
    offset = offset_to_rank_0(world)
    made, ledger = Trace(path), open_ledger()
    counting = Ledger() if ledger is None else ledger
    recorder = Recorder(world.rank, counting)
    with nullcontext() if ledger is not None else counting.open(), observing(recorder), opened(recorder):
        yield made
    made.ranks = world.gather_objects(recorder.recorded().shifted(offset))
    on_rank_0(world, lambda: _finish(made), Unwritten)


def _finish(made: Trace) -> None:
    """Write the files and the text, on rank 0."""
    made.text = f"{trace_report.text(made.ranks)}\n{write(made.path, made.ranks)}\nopen it at {VIEWER}"


def on_rank_0(world: "Communicator", work: Callable[[], None], kind: type[UserError] = UserError) -> None:
    """Call work() on rank 0. Raise its UserError as `kind` on all ranks."""
    message = ""
    if world.rank == 0:
        try:
            work()
        except UserError as error:
            message = str(error)
    if message := world.gather_objects(message)[0]:
        raise kind(message)


def claim(path: Path) -> None:
    """Make the folder of a trace. Raise UserError if it cannot be written, or if other files are in the way."""
    folder, picture = path.parent, path.with_name(PICTURE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        other = path if path.exists() and not is_trace(path) else None
        if picture.exists() and not path.exists():
            other = picture
        if other is None and not os.access(folder, os.W_OK):
            raise PermissionError(0, "permission denied")
    except OSError as error:
        raise UserError(f"cannot write a trace in {folder}: {reason(error)}; give another folder") from error
    if other is not None:
        raise UserError(f"{other} exists and is not a trace of minitrain; move it, or give another folder")


def is_trace(path: Path) -> bool:
    """Return whether this file is a trace that minitrain has written. Raise OSError if it cannot be read."""
    with path.open("rb") as file:
        return file.read(len(BEGINNING)) == BEGINNING.encode()


def write(path: Path, ranks: Sequence[Recorded]) -> str:
    """Write the trace and its picture. Return a sentence on what was written. Raise UserError if that fails."""
    new = path.with_suffix(".new")
    try:
        with new.open("w", encoding="utf-8") as file:
            file.write(BEGINNING + "\n" + ",\n".join(map(json.dumps, events(ranks))) + "\n]}\n")
        new.replace(path)
        if importlib.util.find_spec("matplotlib") is None:
            return f"the trace is in {path}"
        trace_report.draw(path.with_name(PICTURE), ranks)
    except OSError as error:
        raise UserError(f"the trace cannot be written to {path.parent}: {reason(error)}") from error
    return f"the trace is in {path}, with a picture"


# Trace events ---------------------------------------------------------------------------------------------------------


def events(ranks: Sequence[Recorded]) -> list[Event]:
    """Return the events of the file: names first, then everything in the order of time."""
    start = min((span.begin for rank in ranks for spans in rank.lanes.values() for span in spans), default=0)
    numbers: dict[tuple, int] = {}  # of messages
    named, timed = [], []
    for rank in ranks:
        named += names(rank)
        for tid, lane in enumerate(lanes_of(rank)):
            where = {"pid": rank.rank, "tid": tid}
            ordered = sorted(reversed(rank.lanes.get(lane, [])), key=lambda span: (span.begin, -span.end))
            for span in ordered:  # a span comes before those inside it
                timed += [event | where for event in events_of(span, start, numbers)]
        timed += [
            {"ph": "C", "name": "live bytes", "pid": rank.rank, "ts": micros(time - start), "args": live}
            for time, live in rank.memory
        ]
    return named + sorted(timed, key=lambda event: event["ts"])


def names(rank: Recorded) -> list[Event]:
    """Return the events that name a rank and its lanes, and put them in order."""
    whole = {"ph": "M", "pid": rank.rank}
    found: list[Event] = [
        {**whole, "name": "process_name", "args": {"name": f"rank {rank.rank}"}},
        {**whole, "name": "process_sort_index", "args": {"sort_index": rank.rank}},
    ]
    for tid, lane in enumerate(lanes_of(rank)):
        found.append({**whole, "tid": tid, "name": "thread_name", "args": {"name": lane}})
        found.append({**whole, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": tid}})
    return found


def lanes_of(rank: Recorded) -> list[str]:
    """Return the lanes of a rank: those of the main thread, then those of communication threads."""
    return [COMPUTE, COMMUNICATION, *sorted(set(rank.lanes) - {COMPUTE, COMMUNICATION})]


def events_of(span: Span, start: int, numbers: dict[tuple, int]) -> Iterator[Event]:
    """Yield a span and, if it is an end of a message, the end of its arrow. numbers: those of messages seen so far."""
    details = {key: value for key, value in span.details.items() if key != "key"}
    name = f"{span.name} {details['purpose']}" if "purpose" in details else span.name
    length = micros(span.end - span.begin)
    kind = {"cat": span.kind or "other", "name": name}
    yield {"ph": "X", **kind, "ts": micros(span.begin - start), "dur": length, "args": details}
    if "key" in span.details:
        number = numbers.setdefault(span.details["key"], len(numbers))
        arrow = {"id": number, "cat": "message", "name": "message"}
        if span.kind == "send":
            yield {"ph": "s", **arrow, "ts": micros(span.begin - start)}
        else:  # inside the span, or the viewer would not find it
            yield {"ph": "f", "bp": "e", **arrow, "ts": micros(max(span.end - 1, span.begin) - start)}


def micros(ns: int) -> float:
    """Return nanoseconds as microseconds, the unit of the format."""
    return round(ns / 1000, 3)
