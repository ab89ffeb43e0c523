"""An update of thousands of ranks in virtual time, some of them slow: all ranks of a stage are followed at once.

The ranks of one pipeline stage do the same in the same order (step.py). So a stage has one list of events, and its time
is an array t (dp, tp), in ticks (ticks.py):

    FLOPs                  t += flops x flop x slow            elementwise; slow: a rank's factor, 1 if it is not slow
    collective             t = max(t) + ring                   max over the axes along which its ranks lie
    message                t = max(t, t[sender] + message)     elementwise, from stage to stage
    communication thread   an array of its own, as in timeline.py

A slow rank delays its tp group in every block, the other stages of its replica through messages, and everyone once per
update, when gradients are summed. The rules are those of timeline.py, rank by rank: the tests compare both, and real
runs with a slow rank.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

import numpy as np

from ..errors import UserError
from ..observe.virtual_time import Machine, Seconds
from .events import Compute, Event, Meet, Message, Submit, Thread, Wait, Work
from .fleet_costs import Costs, Span
from .setup import Setup
from .step import Rank
from .ticks import LIMIT

Events = tuple[Any, ...]  # the same event of each kind of rank


class Lump(NamedTuple):
    """The events of a block as one: t = max(t + before) + after, where max is over the axes of its collectives."""

    before: np.ndarray
    after: np.ndarray
    computed: np.ndarray
    axes: tuple[int, ...]
    axis: str


@dataclass(eq=False)
class Lane:
    """One thread of a stage's ranks: what it still has to do, its time, and what it computed. Arrays are (dp, tp).

    blocked: ticks by axis. submitted: when the jobs of a communication thread were; ends: when the done ones ended.
    """

    stage: int
    time: np.ndarray
    computed: np.ndarray
    todo: deque[Events] = field(default_factory=deque)
    thread: str = ""  # "": the main thread
    blocked: dict[str, np.ndarray] = field(default_factory=dict)
    submitted: list[np.ndarray] = field(default_factory=list)
    ends: list[np.ndarray] = field(default_factory=list)

    def advance(self, end: np.ndarray, axis: str, computed: np.ndarray | int = 0) -> None:
        """Go on to `end`; the time that was not computed, this axis has blocked."""
        if axis:
            self.blocked[axis] = self.blocked.get(axis, 0) + (end - self.time - computed)
        self.computed = self.computed + computed
        self.time = end


class Fleet:
    """All ranks of an update. slow: rank -> the factor by which its FLOPs take longer.

    Raise UserError for a rank that does not exist, if times may overflow, or if the ranks of a stage do different
    things; RuntimeError if ranks wait for each other.
    """

    def __init__(self, setup: Setup, machine: Machine, slow: Mapping[int, Seconds] | None = None) -> None:
        self.setup, self.costs, self.most = setup, Costs(setup, machine, slow or {}), 0
        self.lumps: dict[tuple[int, Events], Lump | None] = {}
        self.sent: dict[tuple[object, ...], np.ndarray] = {}  # message -> when it left
        self.met: Counter[tuple[object, ...]] = Counter()  # collectives of a group that a lane has ended
        self.arrived: dict[tuple[object, ...], dict[int, np.ndarray]] = {}
        zero = np.zeros((setup.dp, setup.tp), np.int64)
        self.stages = [Lane(stage, zero, zero) for stage in range(setup.pp)]
        self.threads = {
            (stage, name): Lane(stage, zero, zero, thread=name)
            for stage in range(setup.pp)
            for name in get_args(Thread)
        }
        for stage in self.stages:
            ranks = [Rank(setup, (dp, stage.stage, tp)).update() for dp, tp in self.costs.firsts]
            stage.todo.extend(together([rank.events for rank in ranks]))
        lanes = [*self.stages, *self.threads.values()]
        while any(lane.todo for lane in lanes):
            if not sum(self.go(lane) for lane in lanes):
                stuck = [f"stage {lane.stage} at {lane.todo[0][0]}" for lane in lanes if lane.todo]
                raise RuntimeError(f"the ranks wait for each other: {'; '.join(stuck)}")

    @property
    def time(self) -> Seconds:
        """Seconds until the last rank is done."""
        return self.costs.unit.seconds(self.times.max())

    @property
    def times(self) -> np.ndarray:
        """When each rank is done, in ticks: (dp, pp, tp)."""
        return np.stack([lane.time for lane in self.stages], 1)

    @property
    def computed(self) -> np.ndarray:
        """The ticks that each rank computes: (dp, pp, tp)."""
        return np.stack([lane.computed for lane in self.stages], 1)

    @property
    def blocked(self) -> dict[str, np.ndarray]:
        """The ticks that each rank spends in messages and collectives along each axis: (dp, pp, tp)."""
        axes = dict.fromkeys(axis for lane in self.stages for axis in lane.blocked)
        nothing = np.zeros_like(self.stages[0].time)
        return {axis: np.stack([lane.blocked.get(axis, nothing) for lane in self.stages], 1) for axis in axes}

    # Following the events ---------------------------------------------------------------------------------------------

    def go(self, lane: Lane) -> bool:
        """Do what a lane can do now. Return whether that was anything."""
        moved = False
        while lane.todo:
            events = lane.todo[0]
            if isinstance(events[0], Work):
                lane.todo.popleft()
                self.enter(lane, events)
            elif isinstance(events[0], Compute):
                lane.todo.popleft()
                computed = self.spend(self.costs.computing(lane.stage, events))
                lane.advance(lane.time + computed, "", computed)
            else:
                end = self.end_of(lane, events)
                if end is None:
                    return moved
                lane.todo.popleft()
                lane.advance(end, events[0].axis)
                if isinstance(events[0], Submit) and lane.thread:
                    lane.ends.append(end)
            moved = True
        return moved

    def spend(self, cost: np.ndarray) -> np.ndarray:
        """Return the cost. Raise UserError if all costs together may overflow: no time is longer than their sum."""
        self.most += int(cost.max())
        if self.most >= LIMIT:
            self.costs.unit.check(self.most)
        return cost

    def end_of(self, lane: Lane, events: Events) -> np.ndarray | None:
        """Return when a lane's ranks are done with their next event, or None if other ranks have to go on first.

        Raise TypeError for an event that is no communication.
        """
        event: Event = events[0]
        match event:
            case Meet():
                return self.end_of_meeting(lane, events, lane.time)
            case Message():
                return self.end_of_message(lane, events)
            case Submit() if not lane.thread:
                thread = self.threads[lane.stage, event.thread]
                thread.todo.append(events)
                thread.submitted.append(lane.time)
                return lane.time
            case Submit():
                start = np.maximum(lane.time, lane.submitted[len(lane.ends)])
                return self.end_of_meeting(lane, tuple(each.meeting for each in events), start)
            case Wait():
                thread = self.threads[lane.stage, event.thread]
                job = len(thread.submitted) - event.left
                if job <= 0:
                    return lane.time
                return np.maximum(lane.time, thread.ends[job - 1]) if len(thread.ends) >= job else None
        raise TypeError(f"{event} is no communication")

    def end_of_message(self, lane: Lane, events: tuple[Message, ...]) -> np.ndarray | None:
        """Return when messages have been sent, which takes no time, or have arrived."""
        key = events[0].key
        if events[0].source // self.setup.tp % self.setup.pp == lane.stage:
            self.sent[key] = lane.time
            return lane.time
        if key not in self.sent:
            return None
        return np.maximum(lane.time, self.sent.pop(key) + self.spend(self.costs.message(events)))

    def end_of_meeting(self, lane: Lane, events: tuple[Meet, ...], now: np.ndarray) -> np.ndarray | None:
        """Return when a collective ends: after all ranks have arrived and passed on their chunks."""
        span = self.costs.span(events[0].group)
        arrived = {lane.stage: now}
        if len(span.stages) > 1:
            count = (lane.thread, lane.stage, span)
            arrived = self.arrived.setdefault((lane.thread, span, self.met[count]), {})
            arrived[lane.stage] = now
            if len(arrived) < len(span.stages):
                return None
            self.met[count] += 1
        last = np.maximum.reduce([*arrived.values()]).max(axis=span.axes, keepdims=True)
        return last + self.spend(self.costs.ring(events))

    # Blocks, which repeat ---------------------------------------------------------------------------------------------

    def enter(self, lane: Lane, works: tuple[Work, ...]) -> None:
        """Do the work at once if it waits for no other stage; otherwise put its events first."""
        key = lane.stage, works
        if key not in self.lumps:
            self.lumps[key] = self.lump(lane.stage, together([work.events for work in works]))
        lump = self.lumps[key]
        if lump is None:
            lane.todo.extendleft(reversed(together([work.events for work in works])))
            return
        self.spend(lump.before)
        self.spend(lump.after)
        end = (lane.time + lump.before).max(axis=lump.axes, keepdims=True) + lump.after
        lane.advance(end, lump.axis, lump.computed)

    def lump(self, stage: int, events: list[Events]) -> Lump | None:
        """Return the events as one, or None if they are more than FLOPs and collectives along one axis of a stage."""
        if any(not isinstance(each[0], Compute | Meet) for each in events):
            return None
        meetings = {(self.costs.span(each[0].group), each[0].axis) for each in events if isinstance(each[0], Meet)}
        (span, axis), *more = [*meetings] or [(Span((stage,), ()), "")]
        if more or span.stages != (stage,):
            return None
        before, after, computed, since = np.zeros((4, self.setup.dp, self.setup.tp), np.int64)
        first = True
        for each in events:
            if isinstance(each[0], Compute):
                ticks = self.spend(self.costs.computing(stage, each))
                computed, since = computed + ticks, since + ticks
            elif first:
                before, after, since, first = since, self.spend(self.costs.ring(each)), 0 * since, False
            else:  # the ranks have gone on at the same time
                after = after + since.max(axis=span.axes, keepdims=True) + self.spend(self.costs.ring(each))
                since = 0 * since
        return Lump(before, after + since, computed, span.axes, axis)


def together(lists: Sequence[Sequence[Event]]) -> list[Events]:
    """Return the events of all kinds of ranks, step by step. Raise UserError unless all do the same."""
    if {len(events) for events in lists} == {len(lists[0])}:
        steps = [*zip(*lists, strict=True)]
        if all(len({type(event) for event in step}) == 1 for step in steps):
            return steps
    raise UserError(
        "the ranks of a stage do different things, since their shares of the batch or of the matrices differ: "
        "give a batch of at least one sample for each rank along dp and micro-batch, or sizes that tp divides"
    )
