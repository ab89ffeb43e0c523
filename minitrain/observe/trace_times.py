"""Where the time of a recorded run went: computing, communicating, or waiting for other ranks.

    rank 0, compute        |  forward  |  backward  |                              |  optimizer |
    rank 0, communication                           |  waits  |  sends and sums    |
    rank 1, compute        |  forward     |  backward         |                    |  optimizer |

A communication has two parts. A rank waits until the last rank has come to a collective, or until a message has been
sent; then the data are moved. The parts are told apart afterwards, since only the records of all ranks show when the
last one came. The main thread's time is divided in three:

    computing      not in a communication
    exposed        data are moved, and the main thread waits for it, itself or for a communication thread
    waiting        nothing is moved yet: another rank is late

Communication is *hidden* if a communication thread moves data while the main thread computes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .recorder import COMMUNICATION, COMPUTE, Recorded, Span

Interval = tuple[int, int]  # ns
Intervals = list[Interval]  # disjoint, in order


@dataclass(frozen=True)
class Times:
    """One rank's times, as disjoint intervals in order. moved: lane -> when data were moved in it; late: when it waited
    for another rank."""

    updates: Intervals
    computing: Intervals
    exposed: Intervals
    waiting: Intervals
    hidden: Intervals
    moved: dict[str, Intervals]
    late: dict[str, Intervals]

    def fraction(self, part: Intervals) -> float:
        """Return the fraction of the updates' time that these intervals take."""
        return length(part) / (length(self.updates) or 1)


def times_of(ranks: Sequence[Recorded]) -> list[Times]:
    """Return the times of all ranks."""
    ready = ready_times(ranks)
    return [_times(rank, ready) for rank in ranks]


def _times(rank: Recorded, ready: dict[tuple, int]) -> Times:
    updates = merged((span.begin, span.end) for span in rank.lanes[COMPUTE] if span.kind == "update")
    moved, late = {}, {}
    for lane, spans in rank.lanes.items():
        if lane != COMPUTE:  # the wait for a thread moves nothing: the thread's own lane shows what it does
            talks = [span for span in outermost(spans) if span.kind != "wait"]
            moved[lane] = merged((moves_from(span, ready), span.end) for span in talks)
            late[lane] = merged((span.begin, moves_from(span, ready)) for span in talks)
    own = merged((span.begin, span.end) for span in outermost(rank.lanes.get(COMMUNICATION, [])))
    aside = merged(interval for lane, part in moved.items() if lane != COMMUNICATION for interval in part)
    blocked, computing = both(own, updates), without(updates, own)
    exposed = both(blocked, merged([*moved.get(COMMUNICATION, []), *aside]))
    return Times(updates, computing, exposed, without(blocked, exposed), both(aside, computing), moved, late)


def ready_times(ranks: Sequence[Recorded]) -> dict[tuple, int]:
    """Return, for the key of a communication, when its data can move: the message is sent, or all ranks have come."""
    ready: dict[tuple, int] = {}
    for span in (span for rank in ranks for spans in rank.lanes.values() for span in spans):
        if span.kind in ("send", "collective"):
            key = span.details["key"]
            ready[key] = max(ready.get(key, span.begin), span.begin)
    return ready


def moves_from(span: Span, ready: dict[tuple, int]) -> int:
    """Return when the data of a communication begin to move (ns): in the span, at its beginning at the earliest."""
    if span.kind not in ("collective", "receive"):
        return span.begin
    return min(max(ready.get(span.details["key"], span.begin), span.begin), span.end)


# Intervals ------------------------------------------------------------------------------------------------------------


def outer_first(spans: Iterable[Span]) -> list[Span]:
    """Return the spans of a lane in order, each before those inside it. They were recorded as they ended."""
    latest_first = list(spans)[::-1]
    return sorted(latest_first, key=lambda span: (span.begin, -span.end))


def outermost(spans: Iterable[Span]) -> list[Span]:
    """Return the spans of a lane that are in no other span, in order."""
    found: list[Span] = []
    for span in outer_first(spans):
        if not found or span.begin >= found[-1].end:
            found.append(span)
    return found


def merged(intervals: Iterable[Interval]) -> Intervals:
    """Return the union of any intervals."""
    found: Intervals = []
    for begin, end in sorted(intervals):
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        elif begin < end:
            found.append((begin, end))
    return found


def both(some: Intervals, others: Intervals) -> Intervals:
    """Return the intersection."""
    found: Intervals = []
    i = j = 0
    while i < len(some) and j < len(others):
        begin, end = max(some[i][0], others[j][0]), min(some[i][1], others[j][1])
        if begin < end:
            found.append((begin, end))
        if some[i][1] < others[j][1]:
            i += 1
        else:
            j += 1
    return found


def without(some: Intervals, others: Intervals) -> Intervals:
    """Return the difference."""
    found: Intervals = []
    for begin, end in some:
        for lo, hi in both([(begin, end)], others):
            if begin < lo:
                found.append((begin, lo))
            begin = hi
        if begin < end:
            found.append((begin, end))
    return found


def length(intervals: Intervals) -> int:
    """Return the total length, in ns."""
    return sum(end - begin for begin, end in intervals)
