"""The virtual time of an update on a machine that need not exist: its FLOPs and messages, in exact fractions.

    FLOPs          seconds per FLOP, on every rank
    collective     starts when its last rank arrives, and takes hops x (alpha + beta x the largest shard): a ring whose
                   ranks pass on their chunks in step. N - 1 hops scatter or gather, 2 (N - 1) all-reduce
    message        arrives alpha + beta x bytes after it was sent; sending is free

alpha (seconds) and beta (seconds per byte) are those of the slowest link of the ring, or of the two ranks. Inside a
host every rank has links of its own. Between hosts all ranks of a host share its link: while one ring passes through a
host, so do the rings of its other ranks. The run computes real numbers; only the time is virtual, and so it is the same
on any machine. `python -m minitrain plan` predicts it by formulas.

    with open_clock(Clock(machine)) as clock:
        train_step(...)
    clock.time

Thakur, Rabenseifner, Gropp, "Optimization of Collective Communication Operations in MPICH", IJHPCA 19(1), 2005.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from fractions import Fraction

Seconds = int | Fraction | float  # exact, or not


@dataclass(frozen=True)
class Link:
    """What a message costs: alpha seconds, and beta seconds per byte."""

    alpha: Seconds = 0
    beta: Seconds = 0

    def takes(self, nbytes: int) -> Seconds:
        """Return alpha + beta nbytes, in seconds."""
        return self.alpha + self.beta * nbytes


@dataclass(frozen=True)
class Machine:
    """flop: seconds per FLOP. inside: the links inside a host. between: the link of a host of `per_host` ranks.

    per_host 0: all ranks are on one host.
    """

    flop: Seconds = 0
    inside: Link = field(default_factory=Link)
    between: Link = field(default_factory=Link)
    per_host: int = 0

    def crosses(self, a: int, b: int) -> bool:
        """Return whether ranks a and b are on different hosts."""
        return self.per_host > 0 and a // self.per_host != b // self.per_host

    def message(self, a: int, b: int, nbytes: int) -> Seconds:
        """Return the seconds that a message from rank a to rank b takes."""
        if not self.crosses(a, b):
            return self.inside.takes(nbytes)
        return self.between.takes(nbytes * min(self.per_host, abs(a - b)))  # as many ranks have their neighbor outside

    def ring(self, ranks: Sequence[int], hops: int, nbytes: int) -> Seconds:
        """Return the seconds of a collective on a ring of these ranks with chunks of up to nbytes."""
        crosses = any(self.crosses(a, b) for a, b in zip(ranks, [*ranks[1:], ranks[0]], strict=True))
        if not crosses:
            return hops * self.inside.takes(nbytes)
        rings = -(-self.per_host // sum(not self.crosses(ranks[0], rank) for rank in ranks))  # through a host
        return hops * max(self.inside.takes(nbytes), self.between.takes(nbytes * rings))


@dataclass
class Clock:
    """One rank's virtual time, in seconds."""

    machine: Machine
    time: Seconds = Fraction(0)
    inside: bool = False  # in a collective, whose messages it includes

    def compute(self, flops: int) -> None:
        """Advance by the time of these FLOPs."""
        self.time += flops * self.machine.flop

    def meet(self, arrivals: Sequence[tuple[Seconds, int]], hops: int, nbytes: int) -> None:
        """Advance to the end of a collective. arrivals: each rank's time and number in the world."""
        self.time = max(time for time, _ in arrivals) + self.machine.ring([rank for _, rank in arrivals], hops, nbytes)

    def receive(self, sent: tuple[Seconds, int], rank: int, nbytes: int) -> None:
        """Advance to the arrival of a message, which left at sent[0] from rank sent[1], if that is later than now."""
        time, source = sent
        self.time = max(self.time, time + self.machine.message(source, rank, nbytes))


_clock: ContextVar[Clock | None] = ContextVar("virtual_time", default=None)


def current() -> Clock | None:
    """Return this thread's clock, or None."""
    return _clock.get()


@contextmanager
def open_clock(clock: Clock) -> Iterator[Clock]:
    """Let this clock time what this thread does inside the context."""
    token = _clock.set(clock)
    try:
        yield clock
    finally:
        _clock.reset(token)


@contextmanager
def in_collective(gather: Callable[[object], list], rank: int, hops: int, nbytes: int) -> Iterator[None]:
    """Time a collective. gather: collects an object from every rank of its group; rank: this one's, in the world."""
    clock = _clock.get()
    if clock is None or clock.inside:
        yield
        return
    clock.meet(gather((clock.time, rank)), hops, nbytes)
    clock.inside = True
    try:
        yield
    finally:
        clock.inside = False


class Lane:
    """The virtual time of a communication thread: its jobs run one after the other, beside the main thread."""

    def __init__(self) -> None:
        self.ends: list[Seconds] = []  # of its jobs, in order
        self.submitted = 0

    def timed(self, job: Callable[[], None]) -> Callable[[], None]:
        """Return the job with a clock of its own, which starts now or when the job before it ends."""
        clock = _clock.get()
        if clock is None:
            return job
        machine, now = clock.machine, clock.time
        self.submitted += 1

        def run() -> None:
            start = max(now, self.ends[-1]) if self.ends else now
            with open_clock(Clock(machine, start)) as own:
                job()
            self.ends.append(own.time)

        return run

    def wait(self, left: int) -> None:
        """Advance the main thread's clock to the end of all jobs but the last `left`."""
        clock = _clock.get()
        if clock is not None and self.submitted > left:
            clock.time = max(clock.time, self.ends[self.submitted - left - 1])
