"""The validator of traces accepts a correct one and names each kind of fault."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.observe.trace_validator import faults

Trace = dict[str, Any]


def correct() -> Trace:
    """Return a trace of two ranks with one message from rank 0 to rank 1, made by hand."""
    named = [{"ph": "M", "pid": rank, "name": "process_name", "args": {"name": f"rank {rank}"}} for rank in (0, 1)] + [
        {"ph": "M", "pid": rank, "tid": rank + 10, "name": "thread_name", "args": {"name": "compute"}}
        for rank in (0, 1)
    ]
    timed = [
        {"ph": "X", "name": "outer", "pid": 0, "tid": 10, "ts": 0, "dur": 10},
        {"ph": "X", "name": "inner", "pid": 0, "tid": 10, "ts": 0, "dur": 4},
        {"ph": "B", "name": "outer", "pid": 1, "tid": 11, "ts": 1},
        {"ph": "s", "id": 5, "pid": 0, "tid": 10, "ts": 2},
        {"ph": "C", "name": "bytes", "pid": 0, "ts": 3, "args": {"parameters": 0}},
        {"ph": "X", "name": "next", "pid": 0, "tid": 10, "ts": 4, "dur": 6},
        {"ph": "f", "id": 5, "bp": "e", "pid": 1, "tid": 11, "ts": 5},
        {"ph": "E", "name": "outer", "pid": 1, "tid": 11, "ts": 9.5},
    ]
    return {"traceEvents": named + timed}


def test_a_correct_trace_has_no_faults() -> None:
    assert faults(correct(), 2) == []


def of_rank_0(events: list[Any]) -> list[Any]:
    return [event for event in events if event["pid"] == 0]


def changed(place: int, **values: Any) -> Callable[[list[Any]], None]:
    return lambda events: events[place].update(values)


BREAKS: dict[str, tuple[str, Callable[[list[Any]], Any]]] = {  # what is broken -> the rule that says so, and how
    "an end is missing": ("pairs", lambda events: events.pop(11)),
    "an end too many": ("pairs", lambda events: events.append(dict(events[11]))),
    "a span that outlasts its parent": ("nesting", changed(9, dur=6.001)),
    "two spans that overlap": ("nesting", changed(5, dur=4.001)),
    "a child before its parent": ("nesting", lambda events: events.insert(4, events.pop(5))),
    "an earlier event after a later one": ("order", changed(10, ts=3.5)),
    "no receive": ("messages", lambda events: events.pop(10)),
    "no send": ("messages", lambda events: events.pop(7)),
    "two receives": ("messages", lambda events: events.insert(10, dict(events[10]))),
    "a message from the future": ("messages", lambda events: events.insert(7, events.pop(10) | {"ts": 1.5})),
    "a message to itself": ("messages", changed(10, pid=0, tid=10)),
    "a message outside of all spans": ("ends_in_spans", changed(11, ts=5)),
    "a rank is missing": ("names", lambda events: events.pop(1)),
    "a rank without spans": ("names", lambda events: events.__setitem__(slice(4, None), of_rank_0(events[4:]))),
    "a lane without a name": ("names", lambda events: events.pop(2)),
    "two lanes of the same number": ("names", changed(3, tid=10)),
    "a negative counter": ("counters", changed(8, args={"parameters": -1})),
    "no time": ("form", lambda events: events[9].pop("ts")),
    "a negative length": ("form", changed(9, dur=-1)),
    "no process": ("form", lambda events: events[9].pop("pid")),
    "an unknown phase": ("form", changed(9, ph="Y")),
}


@pytest.mark.parametrize(("rule", "break_it"), BREAKS.values(), ids=BREAKS)
def test_each_kind_of_fault_is_named(rule: str, break_it: Callable[[list[Any]], Any]) -> None:
    trace = copy.deepcopy(correct())
    break_it(trace["traceEvents"])
    assert rule in {fault.partition(":")[0] for fault in faults(trace, 2)}


@pytest.mark.parametrize("trace", [None, [], {}, {"traceEvents": None}, {"traceEvents": [1]}])
def test_what_is_no_trace_is_refused(trace: Any) -> None:
    assert faults(trace, 1) == ["form: there is no list of events"]
