"""Where ranks stand, for a person who asks why a job does not move.

A rank that waits for another that never comes cannot say so itself: it sits inside MPI, or in a lock. Another thread of
its process looks at its frames. What it finds are a few words such as "waiting in receive from rank 0 at train.py:12".
"""

import os
import re
import sys
import sysconfig
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from ..autograd import without_grad

PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
TALK = tuple(os.path.join(PACKAGE, room, "") for room in ("comm", "runtime"))  # what a rank waits in
STDLIB = os.path.join(sysconfig.get_paths()["stdlib"], "")
RANKS = 8  # groups of ranks that stand at the same place and are named; of the others, how many there are


class Moves:
    """One rank's way through its communications, written by its communicators. A watch reads it.

    rank: in the world. count: communications begun so far. thread: which thread began the last one. hush: tells the
    other ranks' watches, where there are any, that this rank is about to end the job, and has said why.
    """

    def __init__(self, rank: int) -> None:
        self.rank, self.count, self.thread = rank, 0, 0
        self.hush: Callable[[], None] = lambda: None

    def begin(self) -> None:
        """Another communication begins in this thread."""
        self.count += 1
        self.thread = threading.get_ident()


class Standing(NamedTuple):
    """What is known of a rank: whether it waits in a communication, since when none has begun, and where it is."""

    waits: bool
    quiet: float  # seconds
    text: str


def places(thread: int) -> list[tuple[str, int, str]]:
    """(file, line, function) of a thread, the innermost last.

    Frames are let go of at once: while they are held, so is what their functions have dropped since. Reading the lines,
    as traceback.extract_stack does, takes long on a busy machine.
    """
    frame: FrameType | None = sys._current_frames().get(thread)
    found = []
    while frame is not None:
        found.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return found[::-1]


def of_a_library(file: str) -> bool:
    """Whether it is neither the user's code nor minitrain's."""
    if file.startswith(PACKAGE):
        return False
    return file.startswith(("<frozen", STDLIB)) or re.search(r"\b(site|dist)-packages\b", file) is not None


def short(file: str, line: int) -> str:
    """file:line as it is read best: from the package on, from the current folder on, or by its name."""
    path = Path(file)
    for folder in (Path(PACKAGE).parent, Path.cwd()):
        if path.is_relative_to(folder):
            return f"{path.relative_to(folder)}:{line}"
    return f"{path.name}:{line}"


def caller(array: Any = None) -> tuple[str, ...]:
    """The place outside comm/ and runtime/ from which this was called, and the names that the array has there."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(TALK):
        frame = frame.f_back
    assert frame is not None, "they are called from somewhere"
    names = [name for name, value in list(frame.f_locals.items()) if value is array and array is not None]
    return short(frame.f_code.co_filename, frame.f_lineno), *sorted(names)


def look(thread: int) -> tuple[str, str]:
    """(the communication that a thread is in, such as "receive from rank 0", or ""; its place in the caller's code).

    The place is the innermost line outside minitrain, or of minitrain itself where there is none.
    """
    frame: FrameType | None = sys._current_frames().get(thread)
    communication = place = ""
    inside = True  # only libraries, comm/ and runtime/ so far, from the innermost frame outwards
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
    """The other rank of a message."""
    for name, word in (("source", "from"), ("to", "to")):
        if isinstance(rank := frame.f_locals.get(name), int):
            return f" {word} rank {rank}"
    return ""


def standing(thread: int, moves: Moves, quiet: float) -> Standing:
    """Where the rank stands whose program runs in this thread."""
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
    """Whether one rank waits for another, and none has begun a communication for so many seconds."""
    return any(rank.waits for rank in ranks) and all(rank.quiet >= limit for rank in ranks)


def report(ranks: Sequence[Standing], limit: float) -> str:
    """The message about ranks that are stuck: three lines, however many there are."""
    return (
        f"ranks wait for others, and none has moved for {limit:g} s; the job ends here\n{together(ranks)}\n"
        "all ranks must make the same calls (MINITRAIN_DEBUG=1 compares them); one that works alone for longer needs a "
        "larger MINITRAIN_WAIT, in seconds"
    )


def together(ranks: Sequence[Standing]) -> str:
    """Where each rank stands, in one line; those at the same place are named together."""
    groups: dict[str, list[int]] = {}
    for rank, at in enumerate(ranks):
        groups.setdefault(at.text, []).append(rank)
    said = [f"{named(numbers)}: {text}" for text, numbers in groups.items()]
    rest = [f"and {len(said) - RANKS} other places"] if len(said) > RANKS else []
    return "; ".join(said[:RANKS] + rest)


def named(ranks: Sequence[int]) -> str:
    """rank 0; ranks 0-2, 5"""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    shown = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}"
