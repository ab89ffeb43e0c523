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

from collections import Counter
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

    def share(self, part: Intervals) -> float:
        """Return the fraction of the updates' time that these intervals take."""
        return length(part) / (length(self.updates) or 1)


def times_of(ranks: Sequence[Recorded]) -> list[Times]:
    """Return the times of all ranks."""
    ready = arrivals(ranks)
    return [_times(rank, ready[i]) for i, rank in enumerate(ranks)]


def _times(rank: Recorded, ready: dict[str, dict[int, int]]) -> Times:
    updates = merged((span.begin, span.end) for span in rank.lanes.get(COMPUTE, []) if span.kind == "update")
    moved, late = {}, {}
    for lane, spans in rank.lanes.items():
        if lane == COMPUTE:
            continue
        talks, come = outermost(spans), ready[lane]
        begins = [min(max(come.get(i, span.begin), span.begin), span.end) for i, span in enumerate(talks)]
        real = [span.kind != "wait" for span in talks]  # not the wait for a thread, whose lane shows what it does
        zipped = list(zip(talks, begins, real, strict=True))
        moved[lane] = merged((begin, span.end) for span, begin, is_real in zipped if is_real)
        late[lane] = merged((span.begin, begin) for span, begin, is_real in zipped if is_real)
    own = merged((span.begin, span.end) for span in outermost(rank.lanes.get(COMMUNICATION, [])))
    aside = merged(interval for lane, part in moved.items() if lane != COMMUNICATION for interval in part)
    blocked = both(own, updates)
    exposed = both(blocked, merged([*moved.get(COMMUNICATION, []), *aside]))
    computing = without(updates, own)
    return Times(updates, computing, exposed, without(blocked, exposed), both(aside, computing), moved, late)


def arrivals(ranks: Sequence[Recorded]) -> list[dict[str, dict[int, int]]]:
    """Return, for each rank and lane, when the data of its outermost communications were there: number -> ns.

    The ranks of a group make the same collectives in the same order, so the n-th ones belong together.
    """
    sent = {
        span.details["key"]: span.begin
        for rank in ranks for spans in rank.lanes.values() for span in spans if span.kind == "send"
    }  # fmt: skip
    last: dict[tuple, int] = {}
    for rank in ranks:
        for lane in rank.lanes:
            for key, _, span in collectives(rank, lane):
                last[key] = max(last.get(key, span.begin), span.begin)
    found: list[dict[str, dict[int, int]]] = []
    for rank in ranks:
        found.append({})
        for lane, spans in rank.lanes.items():
            come = found[-1][lane] = {i: last[key] for key, i, _ in collectives(rank, lane)}
            for i, span in enumerate(outermost(spans)):
                if span.kind == "receive":
                    come[i] = sent.get(span.details["key"], span.begin)
    return found


def collectives(rank: Recorded, lane: str) -> list[tuple[tuple, int, Span]]:
    """Return (key, number among the lane's outermost spans, span) of each collective; the key is equal on all ranks."""
    count: Counter[tuple] = Counter()
    found = []
    for i, span in enumerate(outermost(rank.lanes[lane])):
        if span.kind == "collective":
            members = tuple(span.details["ranks"])
            found.append(((lane, members, count[members]), i, span))
            count[members] += 1
    return found


# Intervals ------------------------------------------------------------------------------------------------------------


def outermost(spans: Iterable[Span]) -> list[Span]:
    """Return the spans of a lane that are in no other span, in order."""
    found: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.begin, -span.end)):
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
