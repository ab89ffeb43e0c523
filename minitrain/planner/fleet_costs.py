"""What events cost the ranks of a pipeline stage, as arrays (dp, tp) in ticks.

Ranks of one kind have the same events. Kinds differ if a share is larger: of the batch along dp, or of a matrix along
tp. A group of ranks is that of the first rank of its kind, moved by the distance of the two ranks; what its collective
costs depends only on where its ranks lie in their hosts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from ..errors import UserError, check_whole
from ..observe.virtual_time import Machine, Seconds
from .events import Compute, Meet, Message
from .holdings import Group
from .operations import length
from .setup import Place, Setup
from .ticks import Ticks

E = TypeVar("E", Meet, Message)


class Span(NamedTuple):
    """Where the ranks of a group lie: on these stages, and along these axes of an array (dp, tp)."""

    stages: tuple[int, ...]
    axes: tuple[int, ...]


def kinds(setup: Setup) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Return the coordinates (dp, tp) of the first rank of each kind, and every rank's kind, (dp, tp).

    Ranks of a kind have equal shares of the batch and of every matrix.
    """
    s = setup
    cuts = sorted({w.cut[1] for unit in (0, 1, s.sizes.units - 1) for w in s.weights(unit) if w.cut} | {s.sizes.length})
    rows = [length(s.batch, s.dp, dp) for dp in range(s.dp)]
    columns = [tuple(length(n, s.tp, tp) for n in cuts) for tp in range(s.tp)]
    row, column = [*dict.fromkeys(rows)], [*dict.fromkeys(columns)]
    firsts = [(rows.index(one), columns.index(other)) for one in row for other in column]
    numbers = [[row.index(one) * len(column) + column.index(other) for other in columns] for one in rows]
    return firsts, np.array(numbers)


class Costs:
    """The costs of an update's events on a machine, in ticks.

    slow: rank -> the factor by which its FLOPs take longer. Raise UserError for a rank that does not exist.
    """

    def __init__(self, setup: Setup, machine: Machine, slow: Mapping[int, Seconds]) -> None:
        self.setup, self.machine = setup, machine
        self.firsts, self.kind = kinds(setup)
        self.factors: dict[int, list[tuple[int, int, Seconds]]] = {}  # stage -> dp, tp and factor of slow ranks
        for rank, factor in slow.items():
            check_whole("a slow rank", rank, most=setup.ranks - 1)
            if not factor > 0:
                raise UserError(f"slow rank {rank}: the factor is {factor}; it must be above 0")
            dp, stage, tp = place(setup, rank)
            self.factors.setdefault(stage, []).append((dp, tp, factor))
        links = {cost for link in (machine.inside, machine.between) for cost in (link.alpha, link.beta)}
        self.unit = Ticks(links | {machine.flop * factor for factor in (1, *slow.values())})
        self.known: dict[object, np.ndarray] = {}
        self.spans: dict[Group, Span] = {}

    def computing(self, stage: int, events: Sequence[Compute]) -> np.ndarray:
        """Return the ticks of FLOPs."""
        slow = self.factors.get(stage, [])
        flops = [event.flops for event in events]

        def ticks() -> np.ndarray:
            costs = self.unit.array(n * self.machine.flop for n in flops)[self.kind]
            for dp, tp, factor in slow:
                costs[dp, tp] = self.unit.array([flops[self.kind[dp, tp]] * self.machine.flop * factor])[0]
            return costs

        return self._once((stage if slow else None, *flops), ticks)

    def message(self, events: Sequence[Message]) -> np.ndarray:
        """Return the ticks of a message of each rank."""
        cost = lambda event, by: self.machine.message(event.source + by, event.to + by, event.nbytes)
        key = tuple((event.source, event.to, event.nbytes) for event in events)
        return self._once(key, lambda: self._moved(events, (), cost))

    def ring(self, events: Sequence[Meet]) -> np.ndarray:
        """Return the ticks of a collective, without waiting. Raise UserError if its ranks disagree on its size."""
        axes = self.span(events[0].group).axes

        def cost(event: Meet, by: int) -> Seconds:
            what, n = event.what, len(event.group)
            return self.machine.ring([rank + by for rank in event.group], what.hops(n), what.largest(n))

        def ticks() -> np.ndarray:
            costs = self._moved(events, axes, cost)
            if (costs != costs.max(axis=axes, keepdims=True)).any():
                raise UserError(f"the ranks of a group disagree on what they exchange: {events}")
            return costs

        return self._once(tuple(events), ticks)

    def span(self, group: Group) -> Span:
        """Return where the ranks of a group lie. Raise UserError if they are not all ranks along its axes."""
        if group not in self.spans:
            dp, stages, tp = map(set, zip(*(place(self.setup, rank) for rank in group), strict=True))
            axes = tuple(axis for axis, along in enumerate((dp, tp)) if len(along) > 1)
            whole = all(len(along) == n for along, n in ((dp, self.setup.dp), (tp, self.setup.tp)) if len(along) > 1)
            if not whole or len(group) != len(dp) * len(stages) * len(tp):
                raise UserError(f"the group {group} is no slice of the mesh; simulate one that is")
            self.spans[group] = Span(tuple(sorted(stages)), axes)
        return self.spans[group]

    def _moved(self, events: Sequence[E], axes: tuple[int, ...], cost: Callable[[E, int], Seconds]) -> np.ndarray:
        """Return what the events cost (dp, tp). cost: of a kind's event, by so many ranks further on."""
        first = np.array(self.firsts)[self.kind]  # (dp, tp, 2)
        apart = np.indices(self.kind.shape).transpose(1, 2, 0) - first
        apart[..., list(axes)] = 0  # the group is the same along these
        by = apart @ [self.setup.pp * self.setup.tp, 1]
        alike = self.kind * max(1, self.machine.per_host) + by % max(1, self.machine.per_host)
        _, index, inverse = np.unique(alike, return_index=True, return_inverse=True)
        different = zip(self.kind.flat[index].tolist(), by.flat[index].tolist(), strict=True)
        return self.unit.array(cost(events[kind], by) for kind, by in different)[inverse.reshape(by.shape)]

    def _once(self, key: object, ticks: Callable[[], np.ndarray]) -> np.ndarray:
        if key not in self.known:
            self.known[key] = ticks()
        return self.known[key]


def place(setup: Setup, rank: int) -> Place:
    """Return the coordinates (dp, pp, tp) of a rank."""
    outer, tp = divmod(rank, setup.tp)
    return *divmod(outer, setup.pp), tp
