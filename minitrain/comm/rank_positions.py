"""Report where each rank is, to diagnose a job that hangs.

A rank that is blocked inside MPI, or on a lock, cannot report anything. Another thread of its process inspects its
stack frames and describes them briefly, as in "waiting in receive from rank 0 at train.py:12".
"""

import os
import re
import sys
import sysconfig
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from ..autograd import without_grad

PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
TALK = tuple(os.path.join(PACKAGE, room, "") for room in ("comm", "runtime"))  # a rank that is blocked is in this code
STDLIB = os.path.join(sysconfig.get_paths()["stdlib"], "")
RANKS = 8  # a report lists at most this many places and only counts the rest


class Moves:
    """One rank's progress through its communications, recorded by its communicators and read by a watch for hangs.

    rank: its number in the world. count: communications begun so far. thread: id of the thread that began the last
    one. hush: tells the other ranks' watches, if any, that this rank is ending the job and has reported why.
    """

    def __init__(self, rank: int) -> None:
        self.rank, self.count, self.thread = rank, 0, 0
        self.hush: Callable[[], None] = lambda: None

    def begin(self) -> None:
        """Record that this thread begins a communication."""
        self.count += 1
        self.thread = threading.get_ident()


class Standing(NamedTuple):
    """A rank's state: whether it is blocked in a communication, seconds since the last one began, and where it is."""

    waits: bool
    quiet: float  # seconds
    text: str


def places(thread: int) -> list[tuple[str, int, str]]:
    """Return the (file, line, function) of each frame of a thread, innermost last.

    Keep no frames, since they would keep their functions' local variables alive. traceback.extract_stack also reads the
    source lines, which is slow on a busy machine.
    """
    frame: FrameType | None = sys._current_frames().get(thread)
    found = []
    while frame is not None:
        found.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return found[::-1]


def of_a_library(file: str) -> bool:
    """Return whether the file belongs to a library, and not to minitrain or the user's code."""
    if file.startswith(PACKAGE):
        return False
    return file.startswith(("<frozen", STDLIB)) or re.search(r"\b(site|dist)-packages\b", file) is not None


def short(file: str, line: int) -> str:
    """Return "file:line", with the path relative to the package or the current folder, or else only the file's name."""
    return f"{_relative(file)}:{line}"


@lru_cache(1024)  # debug mode asks in every communication; looking up the current folder lets other threads run first
def _relative(file: str) -> str:
    path = Path(file)
    for folder in (Path(PACKAGE).parent, Path.cwd()):
        if path.is_relative_to(folder):
            return str(path.relative_to(folder))
    return path.name


def caller(array: Any = None) -> tuple[str, ...]:
    """Return the calling line outside comm/ and runtime/, as "file:line", and the names bound to the array there."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(TALK):
        frame = frame.f_back
    assert frame is not None, "the communication code is called from outside"
    names = [name for name, value in list(frame.f_locals.items()) if value is array and array is not None]
    return short(frame.f_code.co_filename, frame.f_lineno), *sorted(names)


def look(thread: int) -> tuple[str, str]:
    """Return the communication a thread is in, such as "receive from rank 0", or "", and the line it is at.

    The line is the innermost one outside minitrain, or inside it if there is none outside.
    """
    frame: FrameType | None = sys._current_frames().get(thread)
    communication = place = ""
    inside = True  # all frames so far, from the innermost outwards, are in libraries, comm/ or runtime/
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if file.startswith(TALK):
            if inside and not name.startswith("_"):
                communication = f"{name}{_peer(frame)}"
        elif not of_a_library(file):
            inside = False
            here = short(file, frame.f_lineno)
            if not file.startswith(PACKAGE):
                return communication, here
            place = place or here
        frame = frame.f_back
    return communication, place


def _peer(frame: FrameType) -> str:
    """Return the message's other rank, as in " from rank 0"; "" if there is none."""
    for name, word in (("source", "from"), ("to", "to")):
        if isinstance(rank := frame.f_locals.get(name), int):
            return f" {word} rank {rank}"
    return ""


def standing(thread: int, moves: Moves, quiet: float) -> Standing:
    """Return the state of the rank whose program runs in this thread. quiet: seconds since its last communication."""
    communication, place = look(thread)
    at = f" at {place}" if place else ""
    if communication:
        return Standing(True, quiet, f"waiting in {communication}{at}")
    doing = "evaluating alone, under no_grad," if thread in without_grad else "at work"
    helper = look(moves.thread)[0] if moves.thread not in (0, thread) else ""
    return Standing(
        bool(helper), quiet, f"{doing}{at}" + (f", its helper thread waiting in {helper}" if helper else "")
    )


ENDED = "ended"
SILENT = "no answer (it is stopped by a signal, or its process is gone)"


def stuck(ranks: Sequence[Standing], limit: float) -> bool:
    """Return whether some rank waits and no rank has begun a communication for `limit` seconds."""
    return any(rank.waits for rank in ranks) and all(rank.quiet >= limit for rank in ranks)


def report(ranks: Sequence[Standing], limit: float) -> str:
    """Return the error message for stuck ranks: three lines, for any number of ranks."""
    return (
        f"ranks are waiting, and none has made progress for {limit:g} s; the job ends here\n{together(ranks)}\n"
        "all ranks must make the same calls (MINITRAIN_DEBUG=1 compares them); if one rank computes alone for longer, "
        "increase MINITRAIN_WAIT (seconds)"
    )


def together(ranks: Sequence[Standing]) -> str:
    """Return one line with the place of every rank, grouping ranks at the same place."""
    groups: dict[str, list[int]] = {}
    for rank, at in enumerate(ranks):
        groups.setdefault(at.text, []).append(rank)
    places = [f"{named(numbers)}: {text}" for text, numbers in groups.items()]
    rest = [f"and {len(places) - RANKS} other places"] if len(places) > RANKS else []
    return "; ".join(places[:RANKS] + rest)


def named(ranks: Sequence[int]) -> str:
    """Return "rank 0" for one rank, "ranks 0-2, 5" for several."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    shown = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}"
