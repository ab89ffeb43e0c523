"""A trace: what all ranks really did and when, in a file for the viewer Perfetto.

    with trace.recording(world, "build/trace") as made:
        for batch in batches:
            trainer.step(batch)
    print(made.text)                     on rank 0: a chart, a table, and where the file is

The folder gets the file (trace_events.py) and, if matplotlib is installed, a picture. Live memory is sampled
so seldom that this takes half a percent of the time; `python -m tests.benchmarks.tracing` measures the cost of all.
"""

import importlib.util
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError, on_rank_0, reason
from . import trace_report
from .clock_offset import offset_to_rank_0
from .ledger import current as open_ledger
from .live_memory import LiveMemory
from .observer import observer, observing
from .recorder import Recorded, Recorder, opened
from .trace_events import events

if TYPE_CHECKING:
    from ..comm.communicator import Communicator

NAME, PICTURE = "trace.json", "trace.svg"
BEGINNING = '{"displayTimeUnit": "ms", "otherData": {"program": "minitrain"}, "traceEvents": ['
VIEWER = "https://ui.perfetto.dev"


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
    made = Trace(path)
    with recording_rank(world.rank) as recorder:
        yield made
    made.ranks = world.gather_objects(recorder.recorded().shifted(offset))
    on_rank_0(world, lambda: _finish(made), Unwritten)


@contextmanager
def recording_rank(rank: int) -> Iterator[Recorder]:
    """Record what this rank does inside the context, in memory only."""
    ledger, own = open_ledger(), LiveMemory()
    live = own.measure if ledger is None else lambda: dict(ledger.live)
    recorder = Recorder(rank, live, observer())
    with own.open() if ledger is None else nullcontext(), observing(recorder), opened(recorder):
        yield recorder


def _finish(made: Trace) -> None:
    """Write the files and the text, on rank 0."""
    made.text = f"{trace_report.text(made.ranks)}\n{write(made.path, made.ranks)}\nopen it at {VIEWER}"


def claim(path: Path) -> None:
    """Make the folder of a trace. Raise UserError if it cannot be written, or if other files are in the way."""
    folder, picture = path.parent, path.with_name(PICTURE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        other = path if path.exists() and not is_trace(path) else None
        if picture.exists() and not path.exists():
            other = picture
        trouble = "" if os.access(folder, os.W_OK) else "permission denied"
    except OSError as error:
        other, trouble = None, reason(error)
    if trouble:
        raise UserError(f"cannot write a trace in {folder}: {trouble}; give another folder")
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
            return f"the trace is in {path}; for a picture as well: pip install matplotlib"
        trace_report.draw(path.with_name(PICTURE), ranks)
    except OSError as error:
        raise UserError(f"the trace cannot be written to {path.parent}: {reason(error)}") from error
    return f"the trace is in {path}, with a picture"
