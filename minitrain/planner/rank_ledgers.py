"""What one rank computes, sends and holds while an update is followed: its ledgers and its list of events."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..comm.communicator import Tag
from ..parallel.pipeline_schedules import Do
from .events import Compute, Event, Meet, Message, Submit, Thread, Wait, Work
from .holdings import Bucket, Group, Memory, buckets_of, weights_of
from .operations import Collective, Local, Step
from .reduction import PARAMETERS
from .setup import Place, Setup

DOWN, UP = ("pp", "activations"), ("pp", "gradients")
Route = tuple[Tag, Group]  # a tag, and the ranks around which the bytes pass


class Done(NamedTuple):
    """What a block did: its events, FLOPs, bytes sent, and by how much memory changed and had risen, by kind."""

    work: Work
    flops: int
    routes: Counter[Route]
    net: dict[str, int]
    rise: dict[str, int]


class RankLedgers:
    """The memory, bytes sent, FLOPs and events of one rank. place: its coordinates (dp, pp, tp).

    Base of step.Rank, which follows an update.
    """

    def __init__(self, setup: Setup, place: Place) -> None:
        self.setup, self.place, self.strategy = setup, place, setup.strategy
        self.number = setup.rank_at(*place)
        self.memory, self.routes, self.flops = Memory(), Counter[Route](), 0
        self.events: list[Event] = []
        self.chunks = [setup.stages[setup.layout.stage(place[1], c)] for c in range(setup.layout.v)]
        self.weights = weights_of(setup, self.chunks)
        self.buckets = buckets_of(setup, place, self.weights)
        self.paths = [list({w.path: w for u in units for w in setup.weights(u)}) for units in self.chunks]
        self.times = Counter(path for paths in self.paths for path in paths)
        self.segmented = bool(self.strategy.recompute or self.strategy.zero == 3)
        self.known: dict[tuple[object, ...], Done] = {}  # of blocks, which are all alike
        self.coming: dict[Bucket, int] = {}  # prefetched buckets -> the numbers of their jobs
        self.prefetched = self.last = 0

    @property
    def sent(self) -> Counter[Tag]:
        """The bytes that this rank sends, by tag."""
        total: Counter[Tag] = Counter()
        for (tag, _), nbytes in self.routes.items():
            total[tag] += nbytes
        return total

    def hold_states(self) -> None:
        """Hold what exists between updates: parameters and the optimizer's state, or this rank's shards of them."""
        for b in self.buckets:
            self.memory.add("parameters", self.setup.stored * (b.own if self.strategy.zero == 3 else b.size))
            if b.trained:
                self.memory.add("optimizer", self.setup.state * (b.own if self.strategy.zero else b.size))

    def segments(self, chunk: int) -> list[range]:
        """Return the runs of units that are one operation under recompute and ZeRO-3; otherwise all units as one."""
        units, n = self.chunks[chunk], (self.strategy.recompute or 1) if self.segmented else len(self.chunks[chunk])
        return [units[i : i + n] for i in range(0, len(units), n)]

    def remembered(self, key: tuple[object, ...], run: Callable[[], None]) -> bool:
        """Run it, and remember what it did; the next time with this key, repeat that instead and return True."""
        if done := self.known.get(key):
            self.events.append(done.work)
            self.flops += done.flops
            self.routes.update(done.routes)
            self.memory.repeat(done.net, done.rise)
            return True
        events, flops, routes, before = self.events, self.flops, self.routes, self.memory.begin()
        self.events, self.routes = [], Counter()
        run()
        work, net_and_rise = Work(tuple(self.events)), self.memory.end(before)
        self.known[key] = Done(work, self.flops - flops, self.routes, *net_and_rise)
        events.append(work)
        routes.update(self.routes)
        self.events, self.routes = events, routes
        return False

    # Computing and communicating ------------------------------------------------------------------------------------

    def work(self, steps: Sequence[Step]) -> None:
        """Compute, and communicate along tp."""
        dp, pp, _ = self.place
        for step in steps:
            if isinstance(step, Collective):
                self.meet(step, [self.setup.rank_at(dp, pp, tp) for tp in range(self.setup.tp)])
            elif step:
                self.flops += step
                self.events.append(Compute(step))

    def meet(self, what: Collective, group: Sequence[int], thread: Thread | None = None) -> None:
        """Take part in a collective. thread: the communication thread to which it is left."""
        if len(group) > 1 and what.rows and what.width:
            meeting = Meet(what, tuple(group))
            self.routes[what.tag, meeting.group] += what.sent(len(group), group.index(self.number))
            self.events.append(Submit(meeting, thread) if thread else meeting)

    def wait(self, left: int) -> None:
        """Wait until all but the last `left` jobs of the communication thread are done."""
        self.events.append(Wait(left))

    def receives_from_itself(self, chunk: int) -> bool:
        """Return whether the stage before this chunk's is on this rank too."""
        layout, pp = self.setup.layout, self.place[1]
        return layout.shape == "V" and 0 < chunk < layout.v and layout.next(pp, chunk, -1)[0] == pp

    def message(self, do: Do, local: Local, down: bool, sends: bool) -> None:
        """Exchange activations (down) or their gradients with the stage before or after, if there is one."""
        s, (dp, pp, tp) = self.setup, self.place
        stage, step = s.layout.stage(pp, do.chunk), 1 if down == sends else -1
        if not 0 <= stage + step < len(s.stages):
            return
        other, _ = s.layout.next(pp, do.chunk, step)
        ends = [s.rank_at(dp, i, tp) for i in (pp, other)]
        source, to = ends if sends else reversed(ends)
        if source == to:  # handed over
            return
        border = max(stage, stage + step)  # between this stage and the one before it
        nbytes = local.stream
        if sends:
            self.routes[DOWN if down else UP, (source, to)] += nbytes
        self.events.append(Message((down, do.micro, border, dp, tp), source, to, nbytes))

    # ZeRO-3's parameters ----------------------------------------------------------------------------------------------

    def gather(self, units: range) -> None:
        """ZeRO-3: all-gather the parameters of a segment, unless they were prefetched, and prefetch the next one's."""
        if self.strategy.zero < 3:
            return
        for bucket in self.used(units):
            if bucket in self.coming:
                self.events.append(Wait(self.prefetched - self.coming.pop(bucket), "prefetch"))
            else:
                self.fetch(bucket)
        if self.strategy.prefetch:
            for bucket in self.used(self.following(units)):
                if bucket not in self.coming and bucket not in self.used(units):
                    self.prefetched += 1
                    self.coming[bucket] = self.prefetched
                    self.fetch(bucket, "prefetch")

    def fetch(self, bucket: Bucket, thread: Thread | None = None) -> None:
        """All-gather the parameters of a bucket."""
        self.memory.add("parameters", bucket.size * self.setup.stored)
        self.meet(Collective("all_gather", PARAMETERS, bucket.size, self.setup.stored), bucket.group, thread)

    def following(self, units: range) -> range:
        """Return the segment that runs next, as Zero3.following in parallel/zero.py."""
        (segments,) = (self.segments(c) for c in range(len(self.chunks)))
        here = segments.index(units)
        onward = here > self.last or (here == 0 and self.last != 1)
        self.last, after = here, here + 1 if onward else here - 1
        return segments[after] if 0 <= after < len(segments) else range(0)

    def drop(self, units: range) -> None:
        """ZeRO-3: free them again."""
        if self.strategy.zero == 3:
            self.memory.add("parameters", -self.setup.stored * sum(bucket.size for bucket in self.used(units)))

    def used(self, units: range) -> list[Bucket]:
        """Return the buckets of these units."""
        paths = {w.path for unit in units for w in self.setup.weights(unit)}
        return [bucket for bucket in self.buckets if bucket.weights[0].path in paths]
