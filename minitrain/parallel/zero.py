"""ZeRO: data parallel without redundant optimizer state, gradients and parameters.

Data parallel has N replicas of the parameters, the gradients and the optimizer state, and all of them take the same
step. Updating each element once is enough: rank r owns shard r of every bucket.

    bucket         |  shard 0   |  shard 1   |  shard 2   |
    stage 1        keep the optimizer state of this rank's shard only
    stage 2        and the gradients: reduced to their owners as soon as a bucket is complete; the rest is freed
    stage 3        and the parameters: gathered for a unit's forward and backward, then freed again

    gradients      reduce_scatter      g_r = shard r of  sum over ranks of g
    step           optimizer           w_r = w_r - lr rule(g_r)
    parameters     all_gather          w   = (w_0, w_1, w_2)

An all-reduce is a reduce-scatter followed by an all-gather. Stage 1 runs the same two with the step in between, so it
sends as many bytes as data parallel. (The obvious order, all-reduce, step, all-gather, sends 1.5 times as many.)

For trained parameters of M bytes in fp32, N ranks and k micro-batches, with Adam:

                                          data parallel      stage 1       stage 2      stage 3
    sent per step, in (N-1)/N M           2                  2             k + 1        3 k
    held, in bytes per parameter          16                 8 + 8/N       4 + 12/N     16/N

A frozen parameter takes 4 bytes (4/N at stage 3), and stage 3 sends 2 k for it. A weight used by two segments (runs of
units, by default of one unit: recompute.py) is gathered for each, which adds 2 k for it. With reduce_once, stages 2 and
3 keep the whole gradient until the last micro-batch: they send 2 and 2 k + 1, and hold 4 (N-1)/N more bytes per
parameter while accumulating. Add one bucket in flight and one being filled, and at stage 3 the unit being computed.

Rajbhandari, Rasley, Ruwase, He, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", SC 2020,
arXiv:1910.02054. Stage 3 with units: Zhao et al., "PyTorch FSDP", VLDB 2023, arXiv:2304.11277.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

from ..backend import Array, accumulation_dtype, square, xp
from ..comm.communicator import Communicator
from ..nn import Module
from ..observe import ledger
from ..observe.recorder import about
from ..optim import Totals
from ..sharding import Shards
from .buckets import Bucket
from .hooks import Hooks
from .overlap import CommunicationThread, communicators_for
from .piece_collectives import from_all, in_order
from .reducer import DividedModel, Reducer, require
from .strategy import Strategy

GRADIENTS, PARAMETERS = ("dp", "gradients"), ("dp", "parameters")
NORM, NORMS, CHECKPOINT = ("dp", "norm"), ("dp", "norms"), ("dp", "checkpoint")


def reduce_to_owners(flat: Array, group: Communicator, shards: Shards | None = None) -> Array:
    """Return this rank's shard of the sum of flat (size) over ranks. The rest of flat is undefined afterwards."""
    return group.reduce_scatter(flat, GRADIENTS, shards)


def gather_from_owners(flat: Array, group: Communicator, shards: Shards | None = None) -> None:
    """Fill flat (size), which already holds this rank's shard, with the shards of all other ranks."""
    group.all_gather(flat, PARAMETERS, shards)


class Zero1(Reducer):
    """Stage 1: shards the optimizer state. hooks.scatter reduces gradients, hooks.gather gathers parameters."""

    sharded = True

    def __init__(self, divided: DividedModel, strategy: Strategy = Strategy(), hooks: Hooks = Hooks()) -> None:
        super().__init__(divided, strategy, hooks)
        self.scatter, self.gather = hooks.scatter or reduce_to_owners, hooks.gather or gather_from_owners

    def reduce(self, bucket: Bucket, flat: Array, group: Communicator) -> None:
        self.scatter(flat, group, **bucket.shard_arguments)

    def values(self, bucket: Bucket) -> Array:
        return require(bucket.data)[bucket.own_shard]

    def sums(self, bucket: Bucket) -> Array:
        return require(bucket.grad)[bucket.own_shard]

    def gather_parameters(self) -> None:
        for bucket in self.trained:
            with about(bucket):  # names it in a trace
                self.gather(require(bucket.data), bucket.group, **bucket.shard_arguments)

    def squares(self) -> list[list[float]]:
        """Sum the squares of the ranks' shards: each rank sends 8 bytes per bucket, in one collective per group."""
        squares = {b: square(self.sums(b)) for b in self.trained}
        found: dict[Bucket, list[float]] = {}
        for group in dict.fromkeys(b.group for b in self.trained):
            buckets = [b for b in self.trained if b.group is group]
            every = from_all(np.array([squares[b] for b in buckets]), group, NORM)
            found |= dict(zip(buckets, every.T.tolist(), strict=True))
        return [found[b] for b in self.trained]

    def over_shards(self, totals: Totals) -> Totals:
        """Sum the totals over ranks: each sends 16 bytes per parameter, in one collective per group."""
        for group in dict.fromkeys(b.group for b in self.trained):
            here = [p for b in self.trained if b.group is group for p in b.parameters]
            sums = in_order(np.array([totals[p] for p in here]), group, NORMS)
            totals |= dict(zip(here, sums, strict=True))
        return totals

    def whole(self, bucket: Bucket, what: str) -> Array | None:
        self.check_initialized()
        if not bucket.trained or (what == "data" and bucket.data is not None):
            return getattr(bucket, what)
        return gathered(bucket, self.values(bucket) if what == "data" else self.sums(bucket))


class Zero2(Zero1):
    """Stage 2: also shards the gradients, in every backward of a step or, with reduce_once, only in the last one."""

    in_flight = 1  # one bucket is sent while another is filled; a third would wait at full size

    def __init__(self, divided: DividedModel, strategy: Strategy = Strategy(), hooks: Hooks = Hooks()) -> None:
        self.each_backward = not strategy.reduce_once
        self.grads: dict[Bucket, Array] = {}  # of this rank's shards
        super().__init__(divided, strategy, hooks)

    def start_step(self, backwards: int = 1) -> None:
        self.grads.clear()
        super().start_step(backwards)

    def detach(self, bucket: Bucket) -> Array:
        flat = require(bucket.grad)
        bucket.release_gradients()
        return flat

    def reduce(self, bucket: Bucket, flat: Array, group: Communicator) -> None:
        shard = self.scatter(flat, group, **bucket.shard_arguments)
        if bucket in self.grads:
            self.grads[bucket] += shard
        else:  # a copy, since a view would keep the rest alive; accumulation_dtype if more is added later
            several = self.each_backward and self.backwards > 1
            self.grads[bucket] = shard.astype(accumulation_dtype(shard.dtype) if several else shard.dtype)
            ledger.hold(self.grads[bucket], "gradients", "reduce-scatter")

    def sums(self, bucket: Bucket) -> Array:
        return require(self.grads.get(bucket))


class Zero3(Zero2):
    """Stage 3: also shards the parameters. With prefetch, a thread gathers the next segment's during this one."""

    keeps_shards = True
    nan_fill = False  # fill freed parameters with NaN, to expose code that still reads them

    def __init__(self, divided: DividedModel, strategy: Strategy = Strategy(), hooks: Hooks = Hooks()) -> None:
        super().__init__(divided, strategy, hooks)
        self.users = dict.fromkeys(self.buckets, 0)  # number of running segments that use a bucket
        self.segments = list(divided.segments)
        self.last = 0  # the segment that ran last
        self.ahead = CommunicationThread("prefetch") if strategy.prefetch else None
        self.coming: dict[Bucket, tuple[int, Array]] = {}  # the number of the job that gathers it, and its array
        self.prefetch_groups = communicators_for([bucket.group for bucket in self.buckets]) if strategy.prefetch else {}

    def place(self, bucket: Bucket, flat: Array) -> None:
        bucket.shard = flat
        bucket.attach(None)  # the full values would take memory and become outdated
        ledger.hold(bucket.shard, "parameters", "set-up")

    @contextmanager
    def around(self, units: Sequence[Module]) -> Iterator[None]:
        """Gather the units' parameters, run the body, then free them."""
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
            self.coming.clear()  # prefetched for a forward that failed; possibly outdated by the next one
            self.last = 0
            raise
        finally:
            for bucket in buckets:
                self.users[bucket] -= 1
                if self.users[bucket] == 0:
                    self.drop(bucket)

    def fetch(self, bucket: Bucket) -> Array:
        """Return the bucket's parameters, (size), gathered from all ranks now or by an earlier prefetch."""
        if bucket in self.coming:
            assert self.ahead is not None
            job, flat = self.coming.pop(bucket)
            self.ahead.wait(self.ahead.submitted - job)
        else:
            flat = self.with_own_shard(bucket)
            with about(bucket):
                self.gather(flat, bucket.group, **bucket.shard_arguments)
        return flat

    def with_own_shard(self, bucket: Bucket) -> Array:
        """Return a new array (size) for the whole bucket, filled with this rank's shard only."""
        flat = xp.empty(bucket.size, bucket.dtype)
        flat[bucket.own_shard] = require(bucket.shard)
        ledger.hold(flat, "parameters", "gather")
        return flat

    def drop(self, bucket: Bucket) -> None:
        """Free the bucket's parameters except this rank's shard."""
        if self.nan_fill:
            require(bucket.data)[...] = np.nan
        bucket.attach(None)

    def following(self, units: Sequence[Module]) -> Sequence[Module]:
        """Return the segment that runs next: in order during the forward, in reverse order during the backward."""
        here = next(i for i, segment in enumerate(self.segments) if segment is units)
        onward = here > self.last or (here == 0 and self.last != 1)
        self.last = here
        following = here + 1 if onward else here - 1
        return self.segments[following] if 0 <= following < len(self.segments) else ()

    def send_for(self, units: Sequence[Module]) -> None:
        """Let the communication thread gather the buckets of these units."""
        assert self.ahead is not None
        for bucket in buckets_of(units):
            if bucket not in self.coming and self.users[bucket] == 0:
                flat = self.with_own_shard(bucket)
                group = self.prefetch_groups[bucket.group]
                with about(bucket):
                    job = self.ahead.submit(partial(self.gather, flat, group, **bucket.shard_arguments))
                self.coming[bucket] = (job, flat)

    def synchronize(self) -> None:
        super().synchronize()
        if self.ahead is not None:  # unused prefetches remain if the first unit is frozen
            self.ahead.wait()
            self.coming.clear()  # outdated after the step

    def close(self) -> None:
        super().close()
        if self.ahead is not None:
            self.ahead.close()

    def values(self, bucket: Bucket) -> Array:
        return require(bucket.shard)

    def gather_parameters(self) -> None:
        """Do nothing: the next forward gathers the updated parameters."""

    def whole(self, bucket: Bucket, what: str) -> Array | None:
        self.check_initialized()
        return gathered(bucket, require(bucket.shard)) if what == "data" else super().whole(bucket, what)


def buckets_of(units: Sequence[Module]) -> list[Bucket]:
    """Return the buckets of these units' parameters, each once."""
    return list(dict.fromkeys(p.bucket for unit in units for p in unit.parameters() if p.bucket is not None))


def gathered(bucket: Bucket, shard: Array) -> Array:
    """Return a new array (size) with the shards of all ranks; `shard` is this rank's. A collective."""
    flat = xp.empty(bucket.size, shard.dtype)
    flat[bucket.own_shard] = shard
    bucket.group.all_gather(flat, CHECKPOINT, bucket.shard_arguments.get("shards"))
    return flat
