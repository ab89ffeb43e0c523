"""What one rank holds: its parameters in buckets, and its memory by kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from ..parallel.buckets import packed
from .operations import length
from .setup import Place, Setup
from .sizes import Weight

KINDS = ("parameters", "gradients", "optimizer", "activations", "buffers")
Group = tuple[int, ...]  # ranks of the world


class Memory:
    """Bytes held by kind, and the most of each kind and of all together ("total")."""

    def __init__(self) -> None:
        self.live = dict.fromkeys((*KINDS, "total"), 0)
        self.peak = dict(self.live)

    def add(self, kind: str, nbytes: int) -> None:
        """Hold more bytes, or fewer if negative."""
        for name in (kind, "total"):
            self.live[name] += nbytes
            self.peak[name] = max(self.peak[name], self.live[name])

    def begin(self) -> tuple[dict[str, int], dict[str, int]]:
        """Start to measure what a part of the update does: pass the result to `end`."""
        before = dict(self.live), self.peak
        self.peak = dict(self.live)
        return before

    def end(self, before: tuple[dict[str, int], dict[str, int]]) -> tuple[dict[str, int], dict[str, int]]:
        """Return the bytes by which that part has changed each kind, and by which each had risen at most."""
        live, peak = before
        net = {kind: n - live[kind] for kind, n in self.live.items()}
        rise = {kind: n - live[kind] for kind, n in self.peak.items()}
        self.peak = {kind: max(n, peak[kind]) for kind, n in self.peak.items()}
        return net, rise

    def repeat(self, net: dict[str, int], rise: dict[str, int]) -> None:
        """Change each kind as a part of the update has done before."""
        for kind, n in self.live.items():
            self.peak[kind] = max(self.peak[kind], n + rise[kind])
            self.live[kind] = n + net[kind]

    def pass_by(self, nbytes: int) -> None:
        """Hold this many bytes of buffers for a moment."""
        for name in ("buffers", "total"):
            self.peak[name] = max(self.peak[name], self.live[name] + nbytes)


@dataclass(eq=False)
class Bucket:
    """Parameters of one kind, whose gradients are summed over a group, in which this rank has the index `rank`."""

    weights: Sequence[Weight]
    sizes: Sequence[int]
    group: Group
    rank: int
    spans_stages: bool

    @property
    def trained(self) -> bool:
        """Whether its parameters have gradients."""
        return self.weights[0].trained

    @cached_property
    def size(self) -> int:
        """Number of elements."""
        return sum(self.sizes)

    @cached_property
    def own(self) -> int:
        """Number of elements in this rank's shard."""
        return length(self.size, len(self.group), self.rank)


def weights_of(setup: Setup, chunks: Sequence[range]) -> list[Weight]:
    """Return the parameters of these units in the order of the whole model."""
    held = {w.path: w for units in chunks for unit in units for w in setup.weights(unit)}
    return sorted(held.values(), key=lambda w: w.users[0])


def buckets_of(setup: Setup, place: Place, weights: Sequence[Weight]) -> list[Bucket]:
    """Return the rank's buckets in the order in which they are reduced."""
    whole = [w.cut is None or setup.tp == 1 for w in weights]
    sizes = [w.local(setup.tp, place[2]) for w in weights]
    kinds = [(w.decay, w.trained, at, setup.holders[w.path], w.users) for w, at in zip(weights, whole, strict=True)]
    buckets = []
    for numbers in packed(kinds, [n * setup.stored for n in sizes], setup.strategy.bucket_mb * 2**20):
        first, (dp, pp, tp) = weights[numbers[0]], place
        holders = setup.holders[first.path]
        along_tp = range(setup.tp) if setup.strategy.sp and whole[numbers[0]] else (tp,)
        stages = holders if len(holders) > 1 else (pp,)
        group = tuple(setup.rank_at(*at) for at in product(range(setup.dp), stages, along_tp))
        rank = group.index(setup.rank_at(dp, pp, tp))
        members = [weights[i] for i in numbers], [sizes[i] for i in numbers]
        buckets.append(Bucket(*members, group, rank, len(holders) > 1))
    return sorted(buckets, key=lambda bucket: bucket.spans_stages)
