"""The virtual time of an update, from the events of its ranks: when they wait for each other, and how long it takes.

It follows the rules of observe/virtual_time.py, which times real runs: a collective starts when its last rank arrives,
a message arrives some time after it was sent. If the machine's numbers are exact, the time is the clock's, exactly.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

from ..observe.virtual_time import Machine, Seconds
from .events import Compute, Event, Meet, Message, Submit, Thread, Wait, Work
from .holdings import Group
from .operations import Collective


@dataclass(eq=False)
class Lane:
    """What one thread of a rank still has to do, its time, and the seconds that it was blocked by each axis."""

    rank: int
    todo: deque[Event]
    thread: str = ""  # "": the main thread
    time: Seconds = 0
    computed: Seconds = 0
    blocked: dict[str, Seconds] = field(default_factory=lambda: defaultdict(int))
    submitted: int = 0  # jobs of a communication thread, and when those that are done ended
    ends: list[Seconds] = field(default_factory=list)


class Timeline:
    """The times of the ranks with these events; machine: in seconds per FLOP and byte.

    The ranks may be representatives of all: those of a group that are not given arrive no later than those that are.
    Raise RuntimeError if the ranks wait for each other.
    """

    def __init__(self, events: dict[int, Sequence[Event]], machine: Machine) -> None:
        self.machine = machine
        self.ranks = {rank: Lane(rank, deque(todo)) for rank, todo in events.items()}
        names = get_args(Thread)
        self.threads = {(rank, name): Lane(rank, deque(), name) for rank in events for name in names}
        self.known: dict[tuple[Collective, Group], Seconds] = {}
        self.lumps: dict[Work, dict[str, Seconds] | None] = {}
        self.sent: dict[tuple[object, ...], Seconds] = {}  # message -> when it left
        self.met: Counter[tuple[str, int, Group]] = Counter()  # collectives of a group that a lane has ended
        self.arrived: dict[tuple[str, Group, int], dict[int, Seconds]] = {}
        lanes = [*self.ranks.values(), *self.threads.values()]
        while any(lane.todo for lane in lanes):
            if not sum(self.advance(lane) for lane in lanes):
                stuck = [f"rank {lane.rank} at {lane.todo[0]}" for lane in lanes if lane.todo]
                raise RuntimeError(f"the ranks wait for each other: {'; '.join(stuck)}")

    @property
    def time(self) -> Seconds:
        """The time of the last rank, in seconds."""
        return max(lane.time for lane in self.ranks.values())

    def advance(self, lane: Lane) -> bool:
        """Do what a lane can do now. Return whether that was anything."""
        moved = False
        while lane.todo:
            event = lane.todo[0]
            if isinstance(event, Work):
                moved = True
                lane.todo.popleft()
                self.enter(lane, event)
                continue
            end = self.end_of(lane, event)
            if end is None:
                return moved
            moved = True
            lane.todo.popleft()
            if isinstance(event, Compute):
                lane.computed += end - lane.time
            else:
                lane.blocked[event.axis] += end - lane.time
            lane.time = end
            if isinstance(event, Submit) and lane.thread:
                lane.ends.append(end)
        return moved

    def enter(self, lane: Lane, work: Work) -> None:
        """Do the work at once if it waits for no other rank that is given; otherwise put its events first."""
        if work not in self.lumps:
            alone = all(
                isinstance(event, Compute) or (isinstance(event, Meet) and len(self.ranks.keys() & event.group) == 1)
                for event in work.events
            )
            self.lumps[work] = self.lump(work) if alone else None
        lump = self.lumps[work]
        if lump is None:
            lane.todo.extendleft(reversed(work.events))
            return
        for axis, time in lump.items():
            lane.time += time
            if axis:
                lane.blocked[axis] += time
            else:
                lane.computed += time

    def lump(self, work: Work) -> dict[str, Seconds]:
        """Return the seconds of work by axis; "" for computing."""
        times: dict[str, Seconds] = defaultdict(int)
        for event in work.events:
            if isinstance(event, Compute):
                times[""] += event.flops * self.machine.flop
            elif isinstance(event, Meet):
                times[event.axis] += self.takes(event)
        return times

    def end_of(self, lane: Lane, event: Event) -> Seconds | None:
        """Return when a lane is done with its next event, or None if another lane has to go on first."""
        match event:
            case Compute():
                return lane.time + event.flops * self.machine.flop
            case Meet():
                return self.end_of_meeting(lane, event, lane.time)
            case Message():
                return self.end_of_message(lane, event)
            case Submit() if not lane.thread:
                thread = self.threads[lane.rank, event.thread]
                thread.todo.append(replace(event, start=lane.time))
                thread.submitted += 1
                return lane.time
            case Submit():
                return self.end_of_meeting(lane, event.meeting, max(lane.time, event.start))
            case Wait():
                thread = self.threads[lane.rank, event.thread]
                job = thread.submitted - event.left
                if job <= 0:
                    return lane.time
                return max(lane.time, thread.ends[job - 1]) if len(thread.ends) >= job else None
            case Work():
                raise RuntimeError("work is entered, not ended")

    def takes(self, meeting: Meet) -> Seconds:
        """Return the seconds of a collective, once all its ranks have arrived."""
        key, n = (meeting.what, meeting.group), len(meeting.group)
        if key not in self.known:
            hops, largest = meeting.what.hops(n), meeting.what.largest(n)
            self.known[key] = self.machine.ring(meeting.group, hops, largest)
        return self.known[key]

    def end_of_message(self, lane: Lane, event: Message) -> Seconds | None:
        """Return when a message has been sent, which takes no time, or has arrived."""
        if event.source == lane.rank:
            self.sent[event.key] = lane.time
            return lane.time
        if event.key not in self.sent:
            return None
        return max(lane.time, self.sent[event.key] + self.machine.message(event.source, lane.rank, event.nbytes))

    def end_of_meeting(self, lane: Lane, event: Meet, now: Seconds) -> Seconds | None:
        """Return when a collective ends: after all ranks have arrived and passed on their chunks."""
        count = (lane.thread, lane.rank, event.group)
        arrived = self.arrived.setdefault((lane.thread, event.group, self.met[count]), {})
        arrived[lane.rank] = now
        if len(arrived) < len(self.ranks.keys() & event.group):
            return None
        self.met[count] += 1
        return max(arrived.values()) + self.takes(event)
