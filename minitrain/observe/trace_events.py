"""The records of all ranks as events of Chrome's Trace Event Format, which Perfetto and chrome://tracing show.

    {"ph": "X", "name": "linear", "cat": "operation", "pid": 0, "tid": 0, "ts": 12.5, "dur": 3.0, "args": {}}

A rank is a process (pid) and a lane a thread (tid); ts and dur are microseconds. "X" is a span, with beginning and
length in one event. "M" names a process or a thread, "C" is a counter. The two ends of a message, "s" and "f", have
the same id; the viewer draws an arrow between the spans that they are in. A communication in which nothing else was
recorded is divided into "waiting", until the last rank has come or the message was sent, and "moving data".

https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from .recorder import COMMUNICATION, COMPUTE, Recorded, Span
from .trace_times import moves_from, outer_first, ready_times

Event = dict[str, Any]


def events(ranks: Sequence[Recorded]) -> list[Event]:
    """Return the events of the file: names first, then everything in the order of time."""
    threads, ready = thread_numbers(ranks), ready_times(ranks)
    start = min((span.begin for rank in ranks for spans in rank.lanes.values() for span in spans), default=0)
    messages: dict[tuple, int] = {}  # key -> id
    found: list[Event] = []
    for rank in ranks:
        for lane, spans in rank.lanes.items():
            where = {"pid": rank.rank, "tid": threads[rank.rank, lane]}
            for span in with_parts(outer_first(spans), ready):
                found += [event | where for event in events_of(span, start, messages)]
        found += [
            {"ph": "C", "name": "live bytes", "pid": rank.rank, "ts": micros(time - start), "args": live}
            for time, live in rank.memory
        ]
    names = [event for rank in ranks for event in names_of(rank, threads)]
    return names + sorted(found, key=lambda event: event["ts"])


def with_parts(spans: Sequence[Span], ready: dict[tuple, int]) -> Iterator[Span]:
    """Yield the spans of a lane, each before those inside it, and the parts of communications that have none."""
    for span, following in zip_longest(spans, spans[1:]):
        yield span
        middle = moves_from(span, ready)
        has_none = following is None or following.begin >= span.end
        if has_none and span.kind in ("collective", "receive"):
            if span.begin < middle:
                yield Span(span.begin, middle, "waiting", "waiting", {})
            if middle < span.end:
                yield Span(middle, span.end, "moving data", "moving", {})


def events_of(span: Span, start: int, messages: dict[tuple, int]) -> Iterator[Event]:
    """Yield a span and, if it is an end of a message, the end of its arrow. messages: the ids given so far."""
    details = {name: value for name, value in span.details.items() if name != "key"}
    name = f"{span.name} {details['purpose']}" if details.get("purpose") else span.name
    begin, length = micros(span.begin - start), micros(span.end - span.begin)
    yield {"ph": "X", "cat": span.kind or "other", "name": name, "ts": begin, "dur": length, "args": details}
    if span.kind in ("send", "receive"):
        number = messages.setdefault(span.details["key"], len(messages))
        arrow = {"id": number, "cat": "message", "name": "message"}
        if span.kind == "send":
            yield {"ph": "s", **arrow, "ts": begin}
        else:  # inside the part that moves data, or the viewer would turn the arrow
            yield {"ph": "f", "bp": "e", **arrow, "ts": micros(max(span.begin, span.end - 1) - start)}


def thread_numbers(ranks: Sequence[Recorded]) -> dict[tuple[int, str], int]:
    """Return (rank, lane) -> number of the thread. The main thread has its process's number, as the viewer expects.

    All others have numbers of their own: the viewer merges threads of equal numbers.
    """
    lanes = sorted({lane for rank in ranks for lane in lanes_of(rank)}, key=_place)
    return {(rank.rank, lane): rank.rank + len(ranks) * lanes.index(lane) for rank in ranks for lane in lanes_of(rank)}


def names_of(rank: Recorded, threads: dict[tuple[int, str], int]) -> list[Event]:
    """Return the events that name a rank and its lanes, and that put them in order."""
    process = {"ph": "M", "pid": rank.rank}
    found: list[Event] = [
        {**process, "name": "process_name", "args": {"name": f"rank {rank.rank}"}},
        {**process, "name": "process_sort_index", "args": {"sort_index": rank.rank}},
    ]
    for lane in lanes_of(rank):
        thread = {**process, "tid": threads[rank.rank, lane]}
        found.append({**thread, "name": "thread_name", "args": {"name": lane}})
        found.append({**thread, "name": "thread_sort_index", "args": {"sort_index": thread["tid"]}})
    return found


def lanes_of(rank: Recorded) -> list[str]:
    """Return the lanes of a rank: those of the main thread, then those of communication threads."""
    return sorted({COMPUTE, COMMUNICATION, *rank.lanes}, key=_place)


def _place(lane: str) -> tuple[int, str]:
    return {COMPUTE: 0, COMMUNICATION: 1}.get(lane, 2), lane


def micros(ns: int) -> float:
    """Return nanoseconds as microseconds, the unit of the format."""
    return ns / 1000
