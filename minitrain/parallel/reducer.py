"""The base of all gradient reducers: it tracks complete buckets and reduces them in the same order on every rank.

    reducer.init(seed)                 once: initialize the parameters
    reducer.start_step(backwards=k)    a bucket is complete when each of its parameters has fired k times
    loss.backward()                    a parameter fires when its gradient is complete, once per backward
    reducer.end_backward()             a parameter that was not reached counts as fired
    reducer.synchronize()              every bucket has been reduced
    reducer.gather_parameters()        after the optimizer: the parameters are the same on all ranks again (ZeRO)

A collective works only if all ranks call it in the same order. Gradients may become ready in a different order on each
rank (an unused parameter, an empty micro-batch), so a complete bucket waits until those before it have been sent.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..backend import Array, accumulation_dtype, checksum, square
from ..comm.agreement import agreed, check_same
from ..comm.communicator import Communicator
from ..comm.mesh import Mesh
from ..errors import UserError, check_seed, check_whole
from ..loss_denominators import expect_parts
from ..nn import Module, Parameter
from ..observe.recorder import about, span
from ..optim import Found, Held, Owned, Totals, steps_begun, unscaled
from .buckets import Bucket
from .hooks import Hooks
from .model_changes import ModelChanges
from .overlap import communicators_for
from .piece_collectives import in_order, joined, over_matrices
from .strategy import Strategy

if TYPE_CHECKING:
    from ..data.batch import Batch
    from .division_checks import DivisionChecks

MODEL = ("layers", "matrices")  # the parts of a model that ranks divide
NORM = ("tp", "norm")


@dataclass(frozen=True)
class DividedModel:
    """A model that parallelize.py has transformed, as a reducer sees it."""

    model: Module
    mesh: Mesh
    buckets: Sequence[Bucket]
    segments: Sequence[Sequence[Module]] = ()  # runs of units that are one operation, in forward order
    times: Mapping[Parameter, int] = field(default_factory=dict)  # backwards per micro-batch that use it, if not 1
    checks: "DivisionChecks | None" = None  # of a divided model, in the first steps
    same: bool = True  # check that all ranks got the same arguments


class Reducer:
    """Base class of data parallel and the ZeRO stages. By itself it serves one process, where nothing is reduced."""

    def __init__(self, divided: DividedModel, strategy: Strategy = Strategy(), hooks: Hooks = Hooks()) -> None:
        """With strategy.reduce "overlap", a communication thread reduces during backward; otherwise the main thread
        does. Raise UserError if overlap needs more than the MPI offers."""
        self.model, self.mesh, self.same = divided.model, divided.mesh, divided.same
        self.times, self.checks = divided.times, divided.checks
        self.buckets = list(divided.buckets)
        self.trained = [bucket for bucket in self.buckets if bucket.trained]
        self.thread = hooks.thread() if strategy.reduce == "overlap" else None
        self.groups = communicators_for([bucket.group for bucket in self.trained]) if self.thread else {}
        self.closed = self.initialized = False
        self.changes = ModelChanges(divided.model, self.buckets)
        for bucket in self.buckets:
            for p in bucket.parameters:
                p.on_ready = partial(self.ready, bucket)
        self.forget()

    def init(self, seed: int) -> None:
        """Initialize the parameters, bucket by bucket, from the seed or from stored weights. Existing values are kept.

        Raise UserError, on all ranks, if the seed is invalid or differs, or if stored weights cannot be read or differ.
        """
        check_seed(seed)
        if self.same:
            check_same(self.world, {"seed": seed})
            agreed(self.world, partial(self.place_all, seed))  # one rank alone may fail to read
            self.check_replicas()
        else:
            self.place_all(seed)
        self.initialized = True

    def place_all(self, seed: int) -> None:
        """Give every bucket its initial values, of which this rank draws or reads what it keeps."""
        for bucket in self.buckets:
            self.place(bucket, bucket.initial_values(seed, bucket.group.rank if self.keeps_shards else None))

    def check_replicas(self) -> None:
        """Raise UserError, on all ranks, if some have read different values for the same slice of a parameter.

        Each rank sends a checksum per parameter that it has read whole.
        """
        read = [p for b in self.buckets if b.data is not None for p in b.parameters if p.stored is not None]
        first: dict[str, int] = {}
        for sums in self.world.gather_objects(
            {f"{p.placement.path} {p.placement.index}": checksum(p.data) for p in read}
        ):
            for name, value in sums.items():
                if first.setdefault(name, value) != value:
                    raise UserError(f"ranks have read different values for {name}: copy the same files to all machines")

    early = True  # reduce buckets during backward, as they complete; otherwise all in synchronize()
    each_backward = False  # reduce buckets in every backward of a step; otherwise once, in the last one
    in_flight = 1 << 30  # most buckets queued in the communication thread, each holding its memory
    sharded = False  # this rank's optimizer updates only a slice of each bucket
    keeps_shards = False  # this rank keeps only that slice of the parameters

    # Methods that strategies override ---------------------------------------------------------------------------------

    def place(self, bucket: Bucket, flat: Array) -> None:
        """Store the initial values of what this rank keeps of a bucket: flat (size), or its shard."""
        bucket.attach(flat)

    def around(self, units: Sequence[Module]) -> AbstractContextManager[None]:
        """Return the context manager in which the forward and the backward of these units run."""
        return nullcontext()

    def detach(self, bucket: Bucket) -> Array:
        """Return the bucket's complete gradients, (size); may remove them from the bucket."""
        return require(bucket.grad)

    def reduce(self, bucket: Bucket, flat: Array, group: Communicator) -> None:
        """Sum the detached gradients, flat (size), over the group. Runs in the communication thread if there is one."""

    def gather_parameters(self) -> None:
        """Make the parameters consistent after the optimizer has updated what `owned` returned."""

    def values(self, bucket: Bucket) -> Array:
        """Return the part of a bucket's parameters that this rank's optimizer updates."""
        return require(bucket.data)

    def sums(self, bucket: Bucket) -> Array:
        """Return the gradient of `values`, summed over ranks."""
        return require(bucket.grad)

    def squares(self) -> list[list[float]]:
        """Return |g|^2 of each shard of each trained bucket, without `factor`. Call after synchronize().

        Shards are those of ZeRO on this group, in every strategy, so that the sum always has the same bits.
        """
        return [[square(require(b.grad)[shard]) for shard in b.shards] for b in self.trained]

    def whole(self, bucket: Bucket, what: str) -> Array | None:
        """Return all parameters ("data") or gradients ("grad") of the bucket, for checkpoints. A collective."""
        self.check_initialized()
        return getattr(bucket, what)

    # The interface of optimizers --------------------------------------------------------------------------------------

    def held(self) -> list[Held]:
        """Return the arrays that this rank's optimizer updates, always in the same order."""
        self.check_initialized()
        if not self.sharded:
            return [Held(self.values(b), b.decay, b.part(None), b.shards) for b in self.trained]
        shard = lambda bucket: slice(0, bucket.own_shard.stop - bucket.own_shard.start)
        return [Held(self.values(b), b.decay, b.part(b.group.rank), [shard(b)]) for b in self.trained]

    def owned(self) -> list[Owned]:
        """Return the arrays of `held` with their gradients."""
        pairs = zip(self.held(), self.trained, strict=True)
        return [Owned(it.data, self.sums(bucket), *it[1:]) for it, bucket in pairs]

    def paths(self) -> set[str]:
        """Return the paths of parameters trained on any rank; includes frozen ones of other pipeline stages."""
        return {p.placement.path for p in self.fired} | set(getattr(self.model, "elsewhere", {}))

    def over_pieces(self, found: Found) -> Totals:
        """Return, for each parameter, the sum of the numbers found on its pieces on all ranks. A collective.

        found: (parameter, 2 numbers), bucket by bucket in the order of `owned`, one entry per shard. Shards are added
        in order, whichever rank holds them, so that the sum has the same bits.
        """
        totals = {p: np.zeros(2) for p in self.fired}
        for p, numbers in found:
            totals[p] += numbers
        return over_matrices(self.over_shards(totals), self.mesh)

    def over_shards(self, totals: Totals) -> Totals:
        """Sum over the ranks that hold other shards of a bucket. Here, each rank holds the whole bucket."""
        return totals

    def logical(self, p: Parameter, flat: Array) -> Array:
        """Return an array of p's logical shape, from every rank's slice of it. A collective of the tp axis."""
        return joined(p.placement, flat.reshape(p.shape), self.mesh)

    def gradient(self, p: Parameter) -> Array:
        """Return a copy of the gradient of p as the optimizer sees it: unscaled, clipped, float32 or wider, p's shape.

        Available from synchronize() to the next start_step(). Raise UserError if p is not trained or this rank holds
        only part of the gradient; checkpoint.gather assembles it.
        """
        if p.bucket not in self.trained:
            raise UserError(f"{p.placement.path} is not trained on this rank and has no gradient")
        piece = p.bucket.piece_in(p, p.bucket.group.rank if self.sharded else None)
        if piece is None or piece.run != slice(0, math.prod(p.shape)) or not self.finished:
            raise UserError(
                f"the gradient of {p.placement.path} is not available here: it exists from synchronize() to the next "
                "start_step(), and under ZeRO only on the rank that owns it.\n"
                'Gather it on all ranks: checkpoint.gather(model, world, "grad", trainer.reducer)'
            )
        stored = self.sums(p.bucket)[piece.place].reshape(p.shape)
        return unscaled(stored.copy(), accumulation_dtype(stored.dtype), self.factor)

    # The step ---------------------------------------------------------------------------------------------------------

    def start_step(self, backwards: int = 1) -> None:
        """Start a step of `backwards` backwards and discard the gradients of the last one.

        Raise UserError if the reducer is closed or uninitialized, or if the model's parameters have changed.
        """
        check_whole("backwards", backwards, 1)
        if self.closed:
            raise UserError("this trainer was closed and takes no more steps; call close() after the last step")
        self.check_initialized()
        self.changes.check()
        self.forget(backwards)
        expect_parts(self.mesh.parts("samples") * backwards)

    def check_initialized(self) -> None:
        """Raise UserError if the parameters are not initialized."""
        if not self.initialized:
            raise UserError("the parameters have no values yet: call init(seed) of the reducer once before training")

    def forget(self, backwards: int = 1) -> None:
        """Discard the gradients and reset the counters for a step of `backwards` backwards."""
        self.backwards, self.begun = backwards, next(steps_begun)
        self.due = 1 if self.each_backward else backwards  # firings per parameter before its bucket may leave
        self.left = 0  # buckets that have left
        self.fired = {p: 0 for bucket in self.trained for p in bucket.parameters}
        self.ended = dict.fromkeys(self.fired, 0)  # backwards that have ended, of those that use it
        self.factor = 1.0  # the gradient is this times the buckets' arrays: see optim/
        self.finished = False
        for bucket in self.trained:
            bucket.release_gradients()

    def ready(self, bucket: Bucket, p: Parameter) -> None:
        """Record that p's gradient of one backward is complete. Send its bucket if it is complete and next in order.

        Raise RuntimeError if p fires more often than the step has backwards.
        """
        self.fired[p] += 1
        if self.fired[p] > self.backwards * self.times.get(p, 1):
            raise RuntimeError(
                f"{p.placement.path} fired {self.fired[p]} times in a step of {self.backwards} backwards: "
                "either start_step() was not called after the last synchronize(), or a hook fires twice in a backward"
            )
        if self.early and self.fired[p] == self.due * self.times.get(p, 1):
            self._leave(all_complete=False)

    def end_backward(self, parameters: Iterable[Parameter] | None = None) -> None:
        """End a backward: parameters it did not reach count as fired. parameters: those it uses, all by default."""
        for p in list(self.fired) if parameters is None else parameters:
            if p in self.fired and p.bucket is not None:
                self.ended[p] += 1
                if self.fired[p] < self.ended[p]:
                    self.ready(p.bucket, p)
        if self.each_backward:
            self._leave(all_complete=True)
            self.left, self.due = 0, self.due + 1

    def synchronize(self) -> None:
        """Block until the gradients of all buckets are summed over all ranks.

        Raise RuntimeError if a backward has not ended, and UserError if the first steps reveal a wrong division.
        """
        late = [p.placement.path for p, n in self.fired.items() if n != self.backwards * self.times.get(p, 1)]
        if late:
            raise RuntimeError(
                f"synchronize() before {self.backwards} backwards have ended; waiting for {', '.join(late[:3])}"
            )
        self._leave(all_complete=True)
        if self.thread is not None:
            self.thread.wait()
        self.finished = True
        expect_parts(1)
        if self.checks is not None:
            self.checks.compare()
            self.checks = None if self.checks.over else self.checks

    def look(self, batch: "Batch") -> None:
        """Check with the first micro-batch of the first step that the model is divided as its `shard` methods state."""
        if self.checks is not None:
            self.checks.look(batch)

    def close(self) -> None:
        """End the communication thread, release its communicators and refuse further steps."""
        self.closed = True
        if self.thread is not None:
            self.thread.close()
        while self.groups:
            self.groups.popitem()[1].free()

    def release(self) -> None:
        """Close the reducer and detach the parameters from it, with their current values.

        Only if every rank holds them whole: a divided model remains divided.
        """
        self.close()
        divided = any(p.placement.local != p.placement.shape for bucket in self.buckets for p in bucket.parameters)
        for bucket in () if divided or self.mesh.parts("layers") > 1 else self.buckets:
            if bucket.shard is None:
                for p in bucket.parameters:
                    p.bucket = p.on_ready = None
                    p.view_gradient(None)

    def _leave(self, all_complete: bool) -> None:
        """Reduce the next buckets in order, up to the first incomplete one."""
        while self.left < len(self.trained):
            bucket = self.trained[self.left]
            complete = all(self.fired[p] == self.due * self.times.get(p, 1) for p in bucket.parameters)
            if not complete or (bucket.spans_stages and not all_complete):
                return
            self.left += 1
            bucket.fill()
            if self.checks is not None:
                self.checks.see(bucket)
            flat = self.detach(bucket)
            with about(bucket):
                if self.thread is None:
                    self.reduce(bucket, flat, bucket.group)
                else:
                    self.thread.wait(self.in_flight - 1)
                    self.thread.submit(partial(self.reduce, bucket, flat, self.groups[bucket.group]))

    @property
    def owners(self) -> str:
        """What a rank owns under ZeRO: runs of "elements" or whole "parameters"."""
        return "elements" if any(bucket.owners is None for bucket in self.trained) else "parameters"

    @property
    def world(self) -> Communicator:
        """All ranks of the mesh."""
        return self.mesh.world

    # The norm ---------------------------------------------------------------------------------------------------------

    def norm(self) -> float:
        """Return the norm of the gradient of the whole logical model, the same on every rank. A collective."""
        self.check_initialized()
        total = 0.0
        with span("norm", "optimizer"):
            for bucket, squares in zip(self.trained, self.squares(), strict=True):
                if self.counts(bucket):
                    for square in squares:
                        total += square
            return self.factor * self.over_model(total) ** 0.5

    def counts(self, bucket: Bucket) -> bool:
        """Return whether this rank counts the bucket: the first of the ranks along the model's axes that hold it."""
        held_by = {axis: places for axis, places in bucket.replicas.items() if axis in Mesh.along(*MODEL)}
        return all(self.mesh.coordinates[axis] == at[0] for axis, at in held_by.items())

    def over_model(self, part: float) -> float:
        """Return the sum over the ranks that divide the model, in rank order. Each sends 8 bytes."""
        if self.mesh.parts(*MODEL) == 1:
            return part
        return float(in_order(np.array(part), self.mesh.over(*MODEL), NORM))


def require(array: Array | None) -> Array:
    """Return the array. Raise RuntimeError if it is None."""
    if array is None:
        raise RuntimeError("this bucket has no values or no gradients now; they live from backward to start_step()")
    return array
