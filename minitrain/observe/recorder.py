"""What one rank does and when, on the wall clock: spans of time in lanes.

    compute         update 3
                      forward 0                        backward 0                     norm    optimizer
                        blocks.0        blocks.1         linear linear   gelu
                          linear gelu     linear gelu    backward weight backward
    communication                                                            all_reduce
    reduce                                               all_reduce  all_reduce

`compute` and `communication` belong to the rank's main thread, which does one or the other; a communication thread has
a lane of its own. Spans of a lane are nested or apart. Operations are computed as they are called, so an operation's
span is the time since the last one ended, without the communication in between, which divides it in two. (A GPU
computes later than it is called: there, the spans of operations only show when Python called them.)

trace.py opens a recorder on every rank, and writes what all of them have recorded. Without an open one, an
operation costs one look at a context variable. As the ledger, the recorder is inherited by the rank's communication
threads. Times are nanoseconds of `time.perf_counter_ns`, which all processes of a host share.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .observer import NOBODY, Observer

if TYPE_CHECKING:
    from ..parallel.pipeline_schedules import Do

COMPUTE, COMMUNICATION = "compute", "communication"  # the lanes of the main thread
EVERY = 200_000  # ns between samples of the memory, at least,
COSTS = 200  # and at least this many times what the last one took

_current: ContextVar["Recorder | None"] = ContextVar("recorder", default=None)
_about: ContextVar[object] = ContextVar("about", default="")
_NOTHING: AbstractContextManager[None] = nullcontext()


class Span(NamedTuple):
    """What ran from `begin` to `end` (ns). kind: its color in a picture. details: shown in the viewer."""

    begin: int
    end: int
    name: str
    kind: str
    details: dict[str, Any]


@dataclass(frozen=True)
class Recorded:
    """The record of one rank. lanes: name -> spans, a span after those inside it. memory: (ns, kind -> live bytes)."""

    rank: int
    lanes: dict[str, list[Span]]
    memory: list[tuple[int, dict[str, int]]]

    def shifted(self, offset: int) -> "Recorded":
        """Return the record with `offset` (ns) added to all times."""
        move = lambda span: span._replace(begin=span.begin + offset, end=span.end + offset)
        lanes = {name: list(map(move, spans)) for name, spans in self.lanes.items()}
        return Recorded(self.rank, lanes, [(time + offset, live) for time, live in self.memory])


class Group(Protocol):
    """The ranks that communicate."""

    members: tuple[int, ...]


class Recorder(Observer):
    """Records one rank, whose main thread creates it. It observes a pipeline, and tells another observer."""

    def __init__(self, rank: int, live: Callable[[], dict[str, int]], other: Observer = NOBODY) -> None:
        """live: returns kind -> bytes alive now."""
        self.rank, self.live, self.other, self.thread = rank, live, other, threading.get_ident()
        self.spans: list[tuple] = []  # of the lane `compute`: Span without its class, to be quick
        self.lanes: dict[str, list[tuple]] = {COMPUTE: self.spans, COMMUNICATION: []}
        self.memory: list[tuple[int, dict[str, int]]] = []
        self.due = 0  # when the memory is to be sampled again
        self.counts: Counter[tuple] = Counter()  # how many communications have had this key
        self.last = perf_counter_ns()  # when the last operation, or whatever else in this lane, began or ended
        self.pieces: list[tuple[int, int]] = []  # parts of the running operation before a communication inside it
        self.talking = 0  # communications that are open in the main thread
        self.running: tuple[int, str, Do] | None = None  # of a pipeline
        self.known: set[object] = set()  # trainers whose memory has been reported

    # The main thread --------------------------------------------------------------------------------------------------

    def operation(self, function: str, phase: str) -> None:
        """Record that the operation to which `function`, a qualified name, belongs has ended."""
        if threading.get_ident() != self.thread:
            return
        now = perf_counter_ns()
        for begin, end in self.pieces:
            self.spans.append((begin, end, function, phase))
        self.pieces.clear()
        self.spans.append((self.last, now, function, phase))
        self.last = now
        if now >= self.due:
            self.sample(now)

    def sample(self, now: int) -> None:
        """Record the live memory."""
        self.memory.append((now, self.live()))
        self.last = perf_counter_ns()
        self.due = self.last + max(EVERY, COSTS * (self.last - now))

    def turn(self) -> int:
        """Return the time, at which a span around operations begins or ends."""
        self.pieces.clear()
        self.last = now = perf_counter_ns()
        if now >= self.due:
            self.sample(now)
        return now

    def begins(self, do: "Do") -> None:
        """Begin the span of an instruction, whose inputs have arrived."""
        self.other.begins(do)
        self.running = self.turn(), f"{do.kind} {do.micro}", do

    def ends(self, do: "Do") -> None:
        """End the span of this instruction, if it has begun."""
        if self.running is not None and self.running[2] == do:
            begin, name, _ = self.running
            details = {"micro": do.micro, "chunk": do.chunk}
            self.spans.append((begin, self.turn(), name, do.kind, details))
            self.running = None

    def sends(self, to: int, number: int) -> None:
        self.other.sends(to, number)

    def received(self, source: int, number: int, nbytes: int) -> None:
        self.other.received(source, number, nbytes)

    # Any thread -------------------------------------------------------------------------------------------------------

    def lane(self) -> str:
        """Return the name of the calling thread's lane of communications."""
        return COMMUNICATION if self.on_main() else threading.current_thread().name

    def key(self, name: str, *parts: Any) -> tuple:
        """Return what a communication is called on all of its ranks: its lane and parts, and how many came before.

        The ranks of a group make the same collectives in the same order, and MPI delivers messages of equal numbers in
        order. So the keys agree if all ranks begin to record between the same two updates.
        """
        key = (self.lane(), *parts)
        self.counts[name, key] += 1
        return *key, self.counts[name, key]

    def on_main(self) -> bool:
        """Return whether the rank's main thread calls."""
        return threading.get_ident() == self.thread

    def recorded(self) -> Recorded:
        """Return all that has been recorded."""
        lanes = {name: [_span(*raw) for raw in raws] for name, raws in self.lanes.items()}
        return Recorded(self.rank, lanes, self.memory)


def _span(begin: int, end: int, name: str, kind: str, details: dict[str, Any] | None = None) -> Span:
    """Return a span. Only operations have no details; their name is that of the function that computed them."""
    if details is not None:
        return Span(begin, end, name, kind, details)
    operation = name.partition(".")[0]
    return Span(begin, end, f"{operation} {kind}" if kind else operation, "operation", {})


class _Work:
    """The context of a span around operations."""

    def __init__(self, recorder: Recorder, name: str, kind: str, details: dict[str, Any]) -> None:
        self.recorder, self.what = recorder, (name, kind, details)

    def __enter__(self) -> None:
        self.begin = self.recorder.turn()

    def __exit__(self, *error: object) -> None:
        self.recorder.spans.append((self.begin, self.recorder.turn(), *self.what))


class _Talk:
    """The context of a communication, or of waiting for one."""

    def __init__(self, recorder: Recorder, name: str, kind: str, details: dict[str, Any]) -> None:
        self.recorder, self.what, self.main = recorder, (name, kind, details), recorder.on_main()

    def __enter__(self) -> None:
        recorder, self.begin = self.recorder, perf_counter_ns()
        if self.main:
            if not recorder.talking and self.begin > recorder.last:
                recorder.pieces.append((recorder.last, self.begin))
            recorder.talking += 1

    def __exit__(self, *error: object) -> None:
        recorder, end = self.recorder, perf_counter_ns()
        recorder.lanes.setdefault(recorder.lane(), []).append((self.begin, end, *self.what))
        if self.main:
            recorder.talking -= 1
            recorder.last = end


# What the rest of the library calls -----------------------------------------------------------------------------------


def current() -> Recorder | None:
    """Return the open recorder, or None."""
    return _current.get()


@contextmanager
def opened(recorder: Recorder) -> Iterator[Recorder]:
    """Let this recorder record what this thread, and the communication threads of the rank, do inside the context."""
    token = _current.set(recorder)
    try:
        yield recorder
    finally:
        _current.reset(token)


def meets(trainer: object) -> bool:
    """Return whether the open recorder, if any, has not met this trainer before."""
    recorder = _current.get()
    if recorder is None or trainer in recorder.known:
        return False
    recorder.known.add(trainer)
    return True


def span(name: str, kind: str = "", **details: Any) -> AbstractContextManager[None]:
    """Return a context whose time is recorded as a span of the lane `compute`."""
    recorder = _current.get()
    return _NOTHING if recorder is None or not recorder.on_main() else _Work(recorder, name, kind, details)


def ends(do: "Do") -> None:
    """Record the end of a pipeline's instruction, whose beginning the recorder has observed."""
    recorder = _current.get()
    if recorder is not None:
        recorder.ends(do)


@contextmanager
def about(what: object) -> Iterator[None]:
    """Note with each communication in this context, or submitted in it, what is sent, such as a bucket."""
    token = _about.set(what)
    try:
        yield
    finally:
        _about.reset(token)


def collective(name: str, group: Group, tag: tuple[str, str], nbytes: int) -> AbstractContextManager[None]:
    """Return a context that records a collective of the group on arrays of nbytes."""
    recorder = _current.get()
    if recorder is None:
        return _NOTHING
    details = _details(group, tag, nbytes) | {"key": recorder.key("collective", group.members)}
    return _Talk(recorder, name, "collective", details)


def message(
    name: str, group: Group, tag: tuple[str, str], nbytes: int, source: int, to: int, number: int
) -> AbstractContextManager[None]:
    """Return a context that records one end of a message between two ranks of the group: "send" or "receive"."""
    recorder = _current.get()
    if recorder is None:
        return _NOTHING
    ends = group.members[source], group.members[to]
    details = {"from": ends[0], "to": ends[1], **_details(group, tag, nbytes)}
    return _Talk(recorder, name, name, details | {"key": recorder.key(name, group.members, *ends, *tag, number)})


def waiting(what: str) -> AbstractContextManager[None]:
    """Return a context that records that this thread waits for `what`, such as its communication thread."""
    recorder = _current.get()
    return _NOTHING if recorder is None else _Talk(recorder, f"wait for {what}", "wait", {"for": what})


def _details(group: Group, tag: tuple[str, str], nbytes: int) -> dict[str, Any]:
    what = str(_about.get())
    details = {"axis": tag[0], "purpose": tag[1], "bytes": nbytes, "ranks": list(group.members)}
    return details | {"of": what} if what else details
