"""ZeRO: data parallel in which nobody keeps everything.

Data parallel has N copies of the parameters, of the gradients and of the optimizer's state, and all of them do the same
step. It is enough that each element is updated once: rank r owns share r of every bucket.

    bucket         |  share 0   |  share 1   |  share 2   |
    stage 1        the optimizer's state only of the own share
    stage 2        and the gradients: reduced to their owners as soon as a bucket is complete, the rest is dropped
    stage 3        and the parameters: gathered for a unit's forward and backward, and dropped again

    gradients      reduce_scatter      g_r = share r of  sum over ranks of g
    step           optimizer           w_r = w_r - lr rule(g_r)
    parameters     all_gather          w   = (w_0, w_1, w_2)

An all-reduce is a reduce-scatter and an all-gather. Stage 1 makes the same two, with the step in between: it sends no
byte more than data parallel. (All-reduce, step, all-gather, the obvious way, sends half as much again.)

For trained parameters of M bytes in fp32, N ranks and k micro-batches, with Adam:

                                          data parallel      stage 1       stage 2      stage 3
    sent per step, in (N-1)/N M           2                  2             k + 1        3 k
    held, in bytes a parameter            16                 8 + 8/N       4 + 12/N     16/N

and for a frozen parameter 4, at stage 3 4/N bytes, and 2 k instead of 3 k. A weight that two segments (recompute.py:
runs of units, of one unit unless given) use is gathered for each of them: 2 k more of it. With reduce_once, stages 2
and 3 keep the whole gradient till the last micro-batch: they send 2 and 2 k + 1, and hold 4 (N-1)/N bytes a parameter
more while they accumulate. Beside this come one bucket that is complete and one that is filled, and at stage 3 the
unit that is at work.

Rajbhandari, Rasley, Ruwase, He, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", SC 2020,
arXiv:1910.02054. Stage 3 with units: Zhao et al., "PyTorch FSDP", VLDB 2023, arXiv:2304.11277.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

from ..backend import Array, square, wide, xp
from ..comm.communicator import Communicator
from ..nn import Module
from ..observe import ledger
from ..optim import Totals
from ..shares import Cuts
from .flat import Bucket
from .overlap import CommunicationThread, own_lines
from .pieces import from_all, in_order
from .reducer import Divided, Doors, Reducer, there
from .strategy import Strategy

GRADIENTS, PARAMETERS = ("dp", "gradients"), ("dp", "parameters")
NORM, NORMS, CHECKPOINT = ("dp", "norm"), ("dp", "norms"), ("dp", "checkpoint")


def reduce_to_owners(flat: Array, group: Communicator, cuts: Cuts | None = None) -> Array:
    """Returns this rank's share of the sum over ranks; the rest of `flat` is then worth nothing."""
    return group.reduce_scatter(flat, GRADIENTS, cuts)


def gather_from_owners(flat: Array, group: Communicator, cuts: Cuts | None = None) -> None:
    """Fills `flat` with every rank's share; the own one stands in it."""
    group.all_gather(flat, PARAMETERS, cuts)


class Zero1(Reducer):
    """The optimizer's state is divided. scatter, gather: what moves gradients to their owners, parameters back."""

    sharded = True

    def __init__(self, divided: Divided, strategy: Strategy = Strategy(), doors: Doors = Doors()) -> None:
        super().__init__(divided, strategy, doors)
        self.scatter, self.gather = doors.scatter or reduce_to_owners, doors.gather or gather_from_owners

    def reduce(self, bucket: Bucket, flat: Array, group: Communicator) -> None:
        self.scatter(flat, group, **bucket.own_cuts)

    def values(self, bucket: Bucket) -> Array:
        return there(bucket.data)[bucket.own]

    def sums(self, bucket: Bucket) -> Array:
        return there(bucket.grad)[bucket.own]

    def after_step(self) -> None:
        for bucket in self.trained:
            self.gather(there(bucket.data), bucket.group, **bucket.own_cuts)

    def squares(self) -> list[list[float]]:
        """Each rank contributes the squares of its shares: 8 bytes a bucket, once for each group of ranks."""
        mine = {b: square(self.sums(b)) for b in self.trained}
        found: dict[Bucket, list[float]] = {}
        for group in dict.fromkeys(b.group for b in self.trained):
            buckets = [b for b in self.trained if b.group is group]
            every = from_all(np.array([mine[b] for b in buckets]), group, NORM)
            found |= dict(zip(buckets, every.T.tolist(), strict=True))
        return [found[b] for b in self.trained]

    def over_shares(self, totals: Totals) -> Totals:
        """16 bytes a parameter from each rank of its group, once for each group."""
        for group in dict.fromkeys(b.group for b in self.trained):
            here = [p for b in self.trained if b.group is group for p in b.parameters]
            sums = in_order(np.array([totals[p] for p in here]), group, NORMS)
            totals |= dict(zip(here, sums, strict=True))
        return totals

    def whole(self, bucket: Bucket, what: str) -> Array | None:
        self.check_drawn()
        if not bucket.trained or (what == "data" and bucket.data is not None):
            return getattr(bucket, what)
        return gathered(bucket, self.values(bucket) if what == "data" else self.sums(bucket))


class Zero2(Zero1):
    """And the gradients. With reduce_once not in every backward of a step, but in its last one."""

    in_flight = 1  # one bucket travels while another is filled: a third would have to wait, whole, for its turn

    def __init__(self, divided: Divided, strategy: Strategy = Strategy(), doors: Doors = Doors()) -> None:
        self.each_backward = not strategy.reduce_once
        self.grads: dict[Bucket, Array] = {}  # of the own shares
        super().__init__(divided, strategy, doors)

    def begin(self, backwards: int = 1) -> None:
        self.grads.clear()
        super().begin(backwards)

    def detach(self, bucket: Bucket) -> Array:
        flat = there(bucket.grad)
        bucket.open(None)
        return flat

    def reduce(self, bucket: Bucket, flat: Array, group: Communicator) -> None:
        mine = self.scatter(flat, group, **bucket.own_cuts)
        if bucket in self.grads:
            self.grads[bucket] += mine
        else:  # a copy, since a view would keep the rest alive; what is added to is wide
            several = self.each_backward and self.backwards > 1
            self.grads[bucket] = mine.astype(wide(mine.dtype) if several else mine.dtype)
            ledger.hold(self.grads[bucket], "gradients", "reduce-scatter")

    def sums(self, bucket: Bucket) -> Array:
        return there(self.grads.get(bucket))


class Zero3(Zero2):
    """And the parameters. With prefetch a thread gathers the next segment's while this one is at work."""

    poison = False  # fill what is dropped with NaN first, so that whoever still reads it is found out

    def __init__(self, divided: Divided, strategy: Strategy = Strategy(), doors: Doors = Doors()) -> None:
        super().__init__(divided, strategy, doors)
        self.users = dict.fromkeys(self.buckets, 0)  # segments at work that use a bucket
        self.segments = list(divided.segments)
        self.last = 0  # the segment that was at work last
        self.ahead = CommunicationThread("prefetch") if strategy.prefetch else None
        self.coming: dict[Bucket, tuple[int, Array]] = {}  # number of the job that gathers it, and where to
        self.ahead_lines = own_lines([bucket.group for bucket in self.buckets]) if strategy.prefetch else {}

    def place(self, bucket: Bucket, flat: Array) -> None:
        bucket.shard = flat[bucket.own].copy()
        bucket.attach(None)  # values that the model had before would be held beside it, and go stale
        ledger.hold(bucket.shard, "parameters", "set-up")

    @contextmanager
    def around(self, units: Sequence[Module]) -> Iterator[None]:
        """Gather, use, drop."""
        buckets = buckets_of(units)
        for bucket in buckets:
            self.users[bucket] += 1
            if self.users[bucket] == 1:
                bucket.attach(self.fetch(bucket))
        if self.ahead is not None:
            self.send_for(self.following(units))
        try:
            yield
        except BaseException:
            self.coming.clear()  # what comes was for a forward that has failed: by the next one it may be old
            self.last = 0
            raise
        finally:
            for bucket in buckets:
                self.users[bucket] -= 1
                if self.users[bucket] == 0:
                    self.drop(bucket)

    def fetch(self, bucket: Bucket) -> Array:
        """The bucket's parameters, from all ranks; perhaps they are under way already."""
        if bucket in self.coming:
            assert self.ahead is not None
            job, flat = self.coming.pop(bucket)
            self.ahead.wait(self.ahead.submitted - job)
        else:
            flat = self.with_own_share(bucket)
            self.gather(flat, bucket.group, **bucket.own_cuts)
        return flat

    def with_own_share(self, bucket: Bucket) -> Array:
        """An array for the whole bucket, in which this rank's share stands."""
        flat = xp.empty(bucket.size, bucket.dtype)
        flat[bucket.own] = there(bucket.shard)
        ledger.hold(flat, "parameters", "gather")
        return flat

    def drop(self, bucket: Bucket) -> None:
        """The parameters are gone, but for the own share."""
        if self.poison:
            there(bucket.data)[...] = np.nan
        bucket.attach(None)

    def following(self, units: Sequence[Module]) -> Sequence[Module]:
        """The segment whose turn is next: forward they come in order, backward in the reverse, from the last on."""
        here = next(i for i, segment in enumerate(self.segments) if segment is units)
        onward = here > self.last or (here == 0 and self.last != 1)
        self.last = here
        following = here + 1 if onward else here - 1
        return self.segments[following] if 0 <= following < len(self.segments) else ()

    def send_for(self, units: Sequence[Module]) -> None:
        """Has the buckets of these units gathered by the thread."""
        assert self.ahead is not None
        for bucket in buckets_of(units):
            if bucket not in self.coming and self.users[bucket] == 0:
                flat = self.with_own_share(bucket)
                line = self.ahead_lines[bucket.group]
                job = self.ahead.submit(partial(self.gather, flat, line, **bucket.own_cuts))
                self.coming[bucket] = (job, flat)

    def finish(self) -> None:
        super().finish()
        if self.ahead is not None:  # what has come and found no use: of a first unit that is frozen
            self.ahead.wait()
            self.coming.clear()  # after the step these values are old

    def close(self) -> None:
        super().close()
        if self.ahead is not None:
            self.ahead.close()

    def values(self, bucket: Bucket) -> Array:
        return there(bucket.shard)

    def after_step(self) -> None:
        """Nothing: the next forward gathers what was updated."""

    def whole(self, bucket: Bucket, what: str) -> Array | None:
        self.check_drawn()
        return gathered(bucket, there(bucket.shard)) if what == "data" else super().whole(bucket, what)


def buckets_of(units: Sequence[Module]) -> list[Bucket]:
    """The buckets that hold the parameters of these units, each once."""
    return list(dict.fromkeys(p.bucket for unit in units for p in unit.parameters()))


def gathered(bucket: Bucket, mine: Array) -> Array:
    """A bucket from the shares of all ranks, as a copy."""
    flat = xp.empty(bucket.size, mine.dtype)
    flat[bucket.own] = mine
    bucket.group.all_gather(flat, CHECKPOINT, bucket.own_cuts.get("cuts"))
    return flat
