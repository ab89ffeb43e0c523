"""What all ways of reducing gradients share: when a bucket is complete, and that buckets leave in one order everywhere.

    gradients.init(seed)               once: the parameters have values
    gradients.begin(backwards=k)       a bucket is complete when each of its parameters has fired k times
    loss.backward()                    a parameter fires when its gradient is complete, once per backward
    gradients.end_backward()           a parameter that was not reached counts as fired
    gradients.finish()                 every bucket has left and come back
    gradients.after_step()             the parameters are the same on all ranks again (ZeRO)

A collective works only if all ranks call it in the same order. Gradients may become ready in another order on another
rank (an unused parameter, an empty micro-batch), so a bucket that is complete waits until those before it have left.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..backend import Array, square, wide
from ..comm.agreement import check_same
from ..comm.communicator import Communicator
from ..comm.mesh import Mesh
from ..denominators import expect_parts
from ..errors import UserError, check_seed, check_whole
from ..nn import Module, Parameter
from ..optim import Found, Held, Owned, Totals, steps_begun, unscaled
from .flat import Bucket
from .overlap import CommunicationThread, own_lines
from .pieces import in_order, joined, over_matrices
from .strategy import Strategy

if TYPE_CHECKING:
    from ..data.batch import Batch
    from .division import Division

MODEL = ("layers", "matrices")  # what is divided of a model
NORM = ("tp", "norm")


# Called with arrays and the group, and `cuts` for a bucket that has its own:
Sync = Callable[..., None]  # each of a list of gradients becomes its sum over the group
Scatter = Callable[..., Array]  # returns this rank's share of the sum
Gather = Callable[..., None]  # fills the array with the shares of all ranks


@dataclass(frozen=True)
class Divided:
    """A model that parallelize.py has transformed: all that a reducer knows of it."""

    model: Module
    mesh: Mesh
    buckets: Sequence[Bucket]
    segments: Sequence[Sequence[Module]] = ()  # units that are one operation, in the order of the forward
    times: Mapping[Parameter, int] = field(default_factory=dict)  # backwards of a micro-batch about it, if not one
    division: "Division | None" = None  # looks at a divided model, until the first steps are over
    same: bool = True  # all ranks are to be given the same


@dataclass(frozen=True)
class Doors:
    """What moves gradients and parameters, where it is not the library's own."""

    sync: Sync | None = None
    scatter: Scatter | None = None
    gather: Gather | None = None
    line: Callable[[], CommunicationThread] = CommunicationThread  # makes the thread that reduces beside backward


class Reducer:
    """Base of data parallel and the ZeRO stages, and by itself the reducer of a single process: nothing to add up."""

    def __init__(self, divided: Divided, strategy: Strategy = Strategy(), doors: Doors = Doors()) -> None:
        """With strategy.reduce "overlap" a thread makes the reductions beside backward; otherwise they are made where
        they stand."""
        self.model, self.mesh, self.same = divided.model, divided.mesh, divided.same
        self.times, self.division = divided.times, divided.division
        self.buckets = list(divided.buckets)
        self.trained = [bucket for bucket in self.buckets if bucket.trained]
        self.line = doors.line() if strategy.reduce == "overlap" else None
        self.lines = own_lines([bucket.group for bucket in self.trained]) if self.line else {}
        self.closed = self.drawn = False
        self.steps, self.changes = 0, -1  # steps that were begun, and when the modules were looked through last
        for bucket in self.buckets:
            for p in bucket.parameters:
                p.on_ready = partial(self.ready, bucket)
        self.forget()

    def init(self, seed: int) -> None:
        """Give the parameters their initial values, bucket by bucket: a model that has values keeps them.

        Raise UserError for seeds that are not the same on all ranks.
        """
        check_seed(seed)
        if self.same:
            check_same(self.world, {"seed": seed})
        for bucket in self.buckets:
            self.place(bucket, bucket.draw(seed))
        self.drawn = True

    early = True  # buckets leave during backward, as they are completed; otherwise all in finish()
    each_backward = False  # buckets leave in every backward of a step; otherwise once, in the last one
    in_flight = 1 << 30  # buckets that may wait for the line, each with its memory
    sharded = False  # this rank's optimizer sees a slice of each bucket only

    # What the strategies override -------------------------------------------------------------------------------------

    def place(self, bucket: Bucket, flat: Array) -> None:
        """Keep the values of this bucket's parameters, which have just been drawn."""
        bucket.attach(flat)

    def around(self, units: Sequence[Module]) -> AbstractContextManager[None]:
        """What surrounds the forward and the backward of these units."""
        return nullcontext()

    def detach(self, bucket: Bucket) -> Array:
        """The bucket's gradients, which are complete here; may take them away from the bucket."""
        return there(bucket.grad)

    def reduce(self, bucket: Bucket, flat: Array, group: Communicator) -> None:
        """Adds up what was detached over the group. With a line, this runs in the communication thread."""

    def after_step(self) -> None:
        """The optimizer has updated what `owned` returned."""

    def values(self, bucket: Bucket) -> Array:
        """What this rank's optimizer updates of a bucket."""
        return there(bucket.data)

    def sums(self, bucket: Bucket) -> Array:
        """Its gradient, the sum over ranks."""
        return there(bucket.grad)

    def squares(self) -> list[list[float]]:
        """|g|^2 of each share of each trained bucket, g being what the bucket holds; after finish().

        Shares are the pieces that ZeRO gives to the ranks of the group: whoever holds which, the sum has the same bits.
        """
        return [[square(there(b.grad)[cut]) for cut in b.cuts] for b in self.trained]

    def whole(self, bucket: Bucket, what: str) -> Array | None:
        """All parameters ("data") or gradients ("grad") of the bucket, for checkpoints; called by all of its group."""
        self.check_drawn()
        return getattr(bucket, what)

    # What the optimizer sees ------------------------------------------------------------------------------------------

    def held(self) -> list[Held]:
        """What this rank's optimizer updates, always in the same order."""
        self.check_drawn()
        if not self.sharded:
            return [Held(self.values(b), b.decay, b.part(None), b.cuts) for b in self.trained]
        own = lambda bucket: [slice(0, bucket.own.stop - bucket.own.start)]
        return [Held(self.values(b), b.decay, b.part(b.group.rank), own(b)) for b in self.trained]

    def owned(self) -> list[Owned]:
        """The same, with the gradients."""
        pairs = zip(self.held(), self.trained, strict=True)
        return [Owned(it.data, self.sums(bucket), *it[1:]) for it, bucket in pairs]

    def paths(self) -> set[str]:
        """Of the parameters that are trained on any rank; of another stage's, the frozen ones, too."""
        return {p.placement.path for p in self.fired} | set(getattr(self.model, "elsewhere", {}))

    def over_pieces(self, found: Found) -> Totals:
        """For each parameter, the sum of what was found on its pieces, on all ranks that have some; called by all.

        found: (parameter, numbers), bucket by bucket in the order of `owned`. Of what lies in one share of a bucket the
        numbers come as one, and shares are added up in their order, whoever has them: so the sum has the same bits.
        """
        totals = {p: np.zeros(2) for p in self.fired}
        for p, numbers in found:
            totals[p] += numbers
        return over_matrices(self.over_shares(totals), self.mesh)

    def over_shares(self, totals: Totals) -> Totals:
        """The sums over the ranks that have other shares of a bucket: here each has all of it."""
        return totals

    def logical(self, p: Parameter, flat: Array) -> Array:
        """The whole of an array of which each rank has the slice that it has of p; called by all of them."""
        return joined(p.placement, flat.reshape(p.shape), self.mesh)

    def gradient(self, p: Parameter) -> Array:
        """The gradient of p as the optimizer sees it, of the slice held here: without the loss scale, and clipped if it
        has been; a copy, in float32 or wider. From finish() to the next begin().

        Raise UserError where this rank does not have all of it; checkpoint.gather puts it together.
        """
        if p.bucket not in self.trained:
            raise UserError(f"{p.placement.path} is not trained here, and has no gradient")
        piece = p.bucket.piece_in(p, p.bucket.group.rank if self.sharded else None)
        if piece is None or piece.run != slice(0, math.prod(p.shape)) or not self.finished:
            raise UserError(
                f"the gradient of {p.placement.path} is not here: it is complete from finish() to the next begin(), "
                "and under ZeRO a rank has those that it owns.\n"
                'Gather it on all ranks: checkpoint.gather(model, world, "grad", trainer.gradients)'
            )
        stored = self.sums(p.bucket)[piece.place].reshape(p.shape)
        return unscaled(stored.copy(), wide(stored.dtype), self.factor)

    # The step ---------------------------------------------------------------------------------------------------------

    def begin(self, backwards: int = 1) -> None:
        """A step of this many backwards begins: the gradients of the last one are forgotten."""
        check_whole("backwards", backwards, 1)
        if self.closed:
            raise UserError("this trainer was closed: nothing more can be learned. Call close() after the last step")
        self.check_drawn()
        self._check_unchanged()
        self.forget(backwards)
        expect_parts(self.mesh.parts("samples") * backwards)

    def check_drawn(self) -> None:
        """Raise UserError while the parameters have no values."""
        if not self.drawn:
            raise UserError("the parameters have no values yet: call init(seed) of the reducer, once, and then train")

    def forget(self, backwards: int = 1) -> None:
        """Count from 0, for a step of this many backwards."""
        self.backwards, self.begun = backwards, next(steps_begun)
        self.due = 1 if self.each_backward else backwards  # how often a parameter has fired when its bucket may leave
        self.left = 0  # buckets that have left
        self.fired = {p: 0 for bucket in self.trained for p in bucket.parameters}
        self.ended = dict.fromkeys(self.fired, 0)  # backwards that were about it
        self.factor = 1.0  # the gradient is this times what the buckets hold: see optim/
        self.finished = False
        for bucket in self.trained:
            bucket.open(None)

    def ready(self, bucket: Bucket, p: Parameter) -> None:
        """p's gradient is complete as far as one backward goes."""
        self.fired[p] += 1
        if self.fired[p] > self.backwards * self.times.get(p, 1):
            raise RuntimeError(
                f"{p.placement.path} fired {self.fired[p]} times in a step of {self.backwards} backwards: "
                "either begin() was not called since the last finish(), or a hook fires twice in a backward"
            )
        if self.early and self.fired[p] == self.due * self.times.get(p, 1):
            self._leave(all_complete=False)

    def end_backward(self, parameters: Iterable[Parameter] | None = None) -> None:
        """A backward is over: what it did not reach counts as fired. parameters: those it was about, all by default."""
        for p in list(self.fired) if parameters is None else parameters:
            if p in self.fired:
                self.ended[p] += 1
                if self.fired[p] < self.ended[p]:
                    self.ready(p.bucket, p)
        if self.each_backward:
            self._leave(all_complete=True)
            self.left, self.due = 0, self.due + 1

    def finish(self) -> None:
        """Returns when the gradients of all buckets are sums over all ranks."""
        late = [p.placement.path for p, n in self.fired.items() if n != self.backwards * self.times.get(p, 1)]
        if late:
            raise RuntimeError(
                f"finish() before {self.backwards} backwards have ended; waiting for {', '.join(late[:3])}"
            )
        self._leave(all_complete=True)
        if self.line is not None:
            self.line.wait()
        self.finished = True
        expect_parts(1)
        if self.division is not None:
            self.division.compare()
            self.division = None if self.division.over else self.division

    def look(self, batch: "Batch") -> None:
        """In the first step, with its first micro-batch: is the model divided as it says?"""
        if self.division is not None:
            self.division.look(batch)

    def close(self) -> None:
        """The run is over: ends the communication thread, and refuses further steps."""
        self.closed = True
        if self.line is not None:
            self.line.close()

    def release(self) -> None:
        """Give the parameters back, with the values that they have, as if this reducer had never been.

        Only where every rank has them whole: a model that was divided stays so.
        """
        self.close()
        divided = any(p.placement.local != p.placement.shape for bucket in self.buckets for p in bucket.parameters)
        for bucket in () if divided or self.mesh.parts("layers") > 1 else self.buckets:
            if bucket.shard is None:
                for p in bucket.parameters:
                    p.bucket = p.on_ready = None
                    p.view_gradient(None)

    def _leave(self, all_complete: bool) -> None:
        """Sends off the next buckets, in order, as far as they are complete."""
        while self.left < len(self.trained):
            bucket = self.trained[self.left]
            complete = all(self.fired[p] == self.due * self.times.get(p, 1) for p in bucket.parameters)
            if not complete or (bucket.spans_stages and not all_complete):
                return
            self.left += 1
            bucket.fill()
            if self.division is not None:
                self.division.see(bucket)
            flat = self.detach(bucket)
            if self.line is None:
                self.reduce(bucket, flat, bucket.group)
            else:
                self.line.wait(self.in_flight - 1)
                self.line.submit(partial(self.reduce, bucket, flat, self.lines[bucket.group]))

    def _check_unchanged(self) -> None:
        """Raise UserError when the model has other parameters than when it was divided into buckets.

        The modules are looked through when one of them has changed. A list in one of them may have changed as well,
        which nothing tells of: so they are at steps 0, 1, 2, 4, 8 and so on, too.
        """
        held = now = dict.fromkeys(p for bucket in self.buckets for p in bucket.parameters)
        if self.changes != Module.changes or self.steps & (self.steps - 1) == 0:
            self.changes, now = Module.changes, dict.fromkeys(self.model.parameters())
        self.steps += 1
        for p in {**now, **held}:
            if what := _changed(p) if p in now else "was removed":
                raise UserError(
                    f"{p.placement.path} {what} after the model was divided into buckets; change the model first, and "
                    "then make its reducer: minitrain.parallel.parallelize"
                )

    @property
    def owners(self) -> str:
        """What a rank owns under ZeRO: runs of "elements", or whole "parameters"."""
        return "elements" if any(bucket.owners is None for bucket in self.trained) else "parameters"

    @property
    def world(self) -> Communicator:
        """All ranks of the mesh."""
        return self.mesh.world

    # The norm ---------------------------------------------------------------------------------------------------------

    def norm(self) -> float:
        """The length of the gradient of the whole logical model, the same on every rank; each element counts once."""
        self.check_drawn()
        total = 0.0
        for bucket, squares in zip(self.trained, self.squares(), strict=True):
            if self.counts(bucket):
                for square in squares:
                    total += square
        return self.factor * self.over_model(total) ** 0.5

    def counts(self, bucket: Bucket) -> bool:
        """Whether this rank counts the bucket: of the ranks along the model's axes that hold it, the first one does."""
        held_by = {axis: places for axis, places in bucket.copies.items() if axis in Mesh.along(*MODEL)}
        return all(self.mesh.coordinates[axis] == at[0] for axis, at in held_by.items())

    def over_model(self, part: float) -> float:
        """The sum of the parts over the ranks that divide the model, in their order: 8 bytes from each."""
        if self.mesh.parts(*MODEL) == 1:
            return part
        return float(in_order(np.array(part), self.mesh.over(*MODEL), NORM))


def _changed(p: Parameter) -> str:
    """What is no longer as it was when p came into its bucket."""
    if p.bucket is None:
        return "was added"
    if p.requires_grad != p.bucket.trained:
        return "was frozen" if p.bucket.trained else "is to be trained"
    return "" if p.decay == p.bucket.decay else f"has another decay, {p.decay},"


def there(array: Array | None) -> Array:
    """The array. Raises RuntimeError when it is not there at the moment."""
    if array is None:
        raise RuntimeError("this bucket has no values or no gradients now; gradients live from backward to begin()")
    return array
