"""What one strategy costs: memory by kind, bytes by axis and link, time, and how much of it is spent waiting.

One rank of each pipeline stage represents all: the one with the largest share of the samples and of every matrix, for
which the others wait. An update of many micro-batches repeats itself, so two short updates tell how a long one goes:
every number grows by the same amount with each further group of micro-batches.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from ..observe.virtual_time import Machine, Seconds
from ..parallel.strategy import Strategy
from .holdings import Group
from .reduction import MODEL_NORM, NORM, OVERFLOW
from .setup import Setup
from .step import TOTAL, Rank
from .timeline import Timeline

Link = tuple[str, str]  # (axis, or "norms" for a few numbers of every update; "inside" a host or "between" hosts)


@dataclass(frozen=True)
class Estimate:
    """An update of `setup`, for the rank with the most of each.

    memory: peak bytes by kind, and of all together ("total"). sent: bytes by axis and link, where a rank sends most.
    flops: of all ranks. time, computing, bubble, exposed: seconds of the update, and of the busiest rank's computing,
    waiting for other stages, and communication that nothing hides.
    """

    setup: Setup
    memory: dict[str, Seconds]
    sent: dict[Link, Seconds]
    flops: Seconds
    time: Seconds
    computing: Seconds
    bubble: Seconds
    exposed: Seconds

    @property
    def useful(self) -> int:
        """FLOPs of the same update on one process, without replays: the numerator of the MFU."""
        alone = replace(
            self.setup, batch=1, dp=1, pp=1, tp=1, accumulate=1, strategy=Strategy(), windows=0, flash=False
        )
        return self.setup.batch * flops_of(alone)


@lru_cache(maxsize=100)
def flops_of(setup: Setup) -> int:
    """Return the FLOPs of an update on one process."""
    return Rank(setup, (0, 0, 0)).update().flops


def estimate(setup: Setup, machine: Machine) -> Estimate:
    """Return the cost of an update on a machine."""
    lengths = short_updates(setup)
    if not lengths:
        return exactly(setup, machine)
    less, more = (exactly(shortened(setup, k), machine) for k in lengths)
    steps = Fraction(setup.accumulate - lengths[0], lengths[1] - lengths[0])

    def further(a: Seconds, b: Seconds) -> Seconds:
        return a + (b - a) * steps

    memory = {kind: further(n, more.memory[kind]) for kind, n in less.memory.items()}
    sent = {link: further(n, more.sent[link]) for link, n in less.sent.items()}
    names = ("flops", "time", "computing", "bubble", "exposed")
    return Estimate(setup, memory, sent, *(further(getattr(less, name), getattr(more, name)) for name in names))


def short_updates(setup: Setup) -> tuple[int, int] | None:
    """Return two smaller numbers of micro-batches from which the update can be extended, or None if there are none.

    All micro-batches must be equal. A pipeline is extended only if it is long: with unequal stages, the time per
    micro-batch still grows at first, until the slowest stage sets it.
    """
    p, k = setup.pp, setup.accumulate
    few, more = (2, 3) if p == 1 else (6 * p, 8 * p)
    even = setup.batch % (setup.dp * k) == 0
    return (few, more) if even and k > more + few else None


def shortened(setup: Setup, k: int) -> Setup:
    """Return the update with k micro-batches of the same size."""
    return replace(setup, accumulate=k, batch=setup.batch // setup.accumulate * k, windows=setup.batch)


def exactly(setup: Setup, machine: Machine) -> Estimate:
    """Return the cost of an update, followed from beginning to end."""
    ranks = [Rank(setup, (0, stage, 0)).update() for stage in range(setup.pp)]
    timeline = Timeline({rank.number: rank.events for rank in ranks}, machine)
    lanes = [timeline.ranks[rank.number] for rank in ranks]
    busiest = max(lanes, key=lambda lane: lane.computed)
    kinds = ranks[0].memory.peak
    bubble = busiest.blocked.get("pp", 0)
    return Estimate(
        setup,
        {kind: max(rank.memory.peak[kind] for rank in ranks) for kind in kinds},
        most_sent(ranks, machine),
        sum(rank.flops for rank in ranks) * setup.dp * setup.tp,
        timeline.time,
        busiest.computed,
        bubble,
        sum(busiest.blocked.values()) - bubble,
    )


def axis_of(axis: str, group: Group, setup: Setup) -> str:
    """Return the axis over which gradients are summed: without dp, that of a tied weight or of sequence parallel."""
    if axis != "dp" or setup.dp > 1:
        return axis
    stages = {rank // setup.tp % setup.pp for rank in group}
    return "pp" if len(stages) > 1 else "tp"


def most_sent(ranks: Sequence[Rank], machine: Machine) -> dict[Link, Seconds]:
    """Return the most that any of these ranks sends over each link.

    The bytes of a ring count as sent between hosts if any of its ranks has its neighbor on another host.
    """
    most: dict[Link, Seconds] = {}
    for rank in ranks:
        sent: Counter[Link] = Counter()
        for (tag, group), nbytes in rank.routes.items():
            around = zip(group, (*group[1:], group[0]), strict=True)
            axis = "norms" if tag in (NORM, MODEL_NORM, OVERFLOW, TOTAL) else axis_of(tag[0], group, rank.setup)
            sent[axis, "between" if any(machine.crosses(a, b) for a, b in around) else "inside"] += nbytes
        for link, nbytes in sent.items():
            most[link] = max(most.get(link, 0), nbytes)
    return most
