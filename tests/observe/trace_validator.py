"""A validator of traces in Chrome's Trace Event Format, written from its description, not from minitrain's code.

    faults(json.loads(text), ranks=4)        a list of sentences; empty if the trace is valid

It accepts both forms of a span, "X" and "B" with "E". Times are compared as whole nanoseconds. Each fault begins with
the name of the rule that is broken, a key of RULES.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

Event = dict[str, Any]
Lane = tuple[int, int]  # (pid, tid)
TIMED = ("X", "B", "E", "s", "f", "C")


def faults(trace: Any, ranks: int) -> list[str]:
    """Return what is wrong with a trace of this many ranks."""
    events = trace.get("traceEvents") if isinstance(trace, dict) else None
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        return ["form: there is no list of events"]
    bad = list(form(events, ranks))  # the other rules need events of the right form
    return bad or [f"{name}: {fault}" for name, rule in RULES.items() for fault in rule(events, ranks)]


def form(events: list[Event], ranks: int) -> Iterator[str]:
    """An event has a phase, a process and, except for a name, a time; a span has a length."""
    for event in events:
        phase = event.get("ph")
        if phase not in (*TIMED, "M"):
            yield f"form: phase {phase!r}"
            continue
        numbers = [event.get("pid")] + [event.get("ts")] * (phase != "M") + [event.get("dur")] * (phase == "X")
        numbers += [event.get("tid")] * (phase in "XBEsf")
        if not all(isinstance(number, (int, float)) and number >= 0 for number in numbers):
            yield f"form: {event}"


def order(events: list[Event], ranks: int) -> Iterator[str]:
    """Events come in the order of time."""
    timed = [event for event in events if event["ph"] != "M"]
    for before, after in pairwise(timed):
        if after["ts"] < before["ts"]:
            yield f"{after} comes after {before}"


def pairs(events: list[Event], ranks: int) -> Iterator[str]:
    """Each beginning of a span has an end, and each end a beginning."""
    open_spans: Counter[Lane] = Counter()
    for event in events:
        if event["ph"] in "BE":
            open_spans[lane(event)] += 1 if event["ph"] == "B" else -1
            if open_spans[lane(event)] < 0:
                yield f"an end without a beginning, {event}"
                return
    yield from (f"{count} spans of {where} never end" for where, count in open_spans.items() if count)


def nesting(events: list[Event], ranks: int) -> Iterator[str]:
    """Two spans of a lane are apart or one is in the other, which comes first in the file."""
    for where, spans in spans_of(events).items():
        around: list[tuple[int, int, str]] = []
        for begin, end, name in spans:
            while around and around[-1][1] <= begin:
                around.pop()
            if around and (begin < around[-1][0] or end > around[-1][1]):
                yield f"in {where}, {name} ({begin} to {end}) overlaps {around[-1]}"
            around.append((begin, end, name))


def messages(events: list[Event], ranks: int) -> Iterator[str]:
    """A message has one sending and one receiving end, on different ranks, and arrives after it was sent."""
    ends: dict[Any, dict[str, list[Event]]] = defaultdict(lambda: {"s": [], "f": []})
    for event in events:
        if event["ph"] in "sf":
            ends[event.get("id")][event["ph"]].append(event)
    for number, both in ends.items():
        if (len(both["s"]), len(both["f"])) != (1, 1):
            yield f"message {number} has {len(both['s'])} sends and {len(both['f'])} receives"
        elif both["f"][0]["ts"] < both["s"][0]["ts"]:
            yield f"message {number} arrives before it was sent"
        elif both["f"][0]["pid"] == both["s"][0]["pid"]:
            yield f"message {number} stays on a rank"


def ends_in_spans(events: list[Event], ranks: int) -> Iterator[str]:
    """An end of a message is inside a span of its lane, or a viewer could not show it."""
    spans = spans_of(events)
    for event in events:
        time = nanoseconds(event["ts"]) if event["ph"] in "sf" else 0
        if event["ph"] in "sf" and not any(begin <= time < end for begin, end, _ in spans[lane(event)]):
            yield f"message {event['id']} begins or ends outside of the spans of {lane(event)}"


def names(events: list[Event], ranks: int) -> Iterator[str]:
    """Each rank is a process with a name, and each lane a thread with a name; no two lanes have the same number."""
    processes = {e["pid"]: e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "process_name"}
    threads = {lane(e): e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    wanted = {rank: f"rank {rank}" for rank in range(ranks)}
    if processes != wanted:
        yield f"processes are {processes}"
    yield from (f"{where} has no name" for where in spans_of(events) if where not in threads)
    numbers = Counter(tid for _, tid in threads)
    yield from (f"{count} threads have the number {tid}" for tid, count in numbers.items() if count > 1)
    silent = wanted.keys() - {pid for pid, _ in spans_of(events)}
    if silent:
        yield f"ranks {sorted(silent)} have no spans"


def counters(events: list[Event], ranks: int) -> Iterator[str]:
    """A counter is never negative."""
    for event in events:
        if event["ph"] == "C" and not all(value >= 0 for value in event["args"].values()):
            yield f"{event}"


RULES: dict[str, Callable[[list[Event], int], Iterator[str]]] = {
    rule.__name__: rule for rule in (order, pairs, nesting, messages, ends_in_spans, names, counters)
}


def lane(event: Event) -> Lane:
    return event["pid"], event["tid"]


def nanoseconds(micros: float) -> int:
    return round(1000 * micros)


def spans_of(events: list[Event]) -> dict[Lane, list[tuple[int, int, str]]]:
    """Return (begin, end, name) of the spans of each lane, in the order of their beginnings in the file."""
    found: dict[Lane, list[list[Any]]] = defaultdict(list)
    begun: dict[Lane, list[list[Any]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            begin = nanoseconds(event["ts"])
            found[lane(event)].append([begin, begin + nanoseconds(event["dur"]), event["name"]])
        elif event["ph"] == "B":
            begun[lane(event)].append([nanoseconds(event["ts"]), 0, event["name"]])
            found[lane(event)].append(begun[lane(event)][-1])
        elif event["ph"] == "E" and begun[lane(event)]:
            begun[lane(event)].pop()[1] = nanoseconds(event["ts"])
    return defaultdict(list, {where: [(a, b, c) for a, b, c in spans] for where, spans in found.items()})
