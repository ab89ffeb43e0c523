"""Check in the first steps that a model is divided as its `shard` declares.

    gradients   a parameter held whole has the same gradient on all ranks along tp, or a partial sum, as declared
    ranks       between the units, where nothing is divided, all ranks have the same activations and gradients
    rows        a layer divided by `row` is linear, because its results are summed: f(-2x) = -2 f(x)
    borders     units compute the same from shards of the sequence as from the whole sequence

A gradient of 0, as in a branch initialized to 0, proves nothing: the checks are then repeated, for at most three steps.

Cost: two numbers per parameter and per unit, sent once; under sequence parallel, or with a custom row layer, one or two
forwards without a backward. The run's ledger does not count this traffic. Other errors, such as a softmax over divided
columns, appear only in a comparison with the serial run: `python -m minitrain compare model`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from ..autograd import no_grad
from ..backend import to_host
from ..comm.communicator import Communicator
from ..data.batch import Batch
from ..errors import UserError
from ..models import Model
from ..nn import Parameter, watching
from ..observe.ledger import Ledger
from ..sharding import shard_of
from ..tensor import Tensor
from .border_checks import Borders, Notes, Numbers, alike, bound_of, note, sums, unlike
from .buckets import Bucket
from .held_parameters import spoken
from .plan import Plan
from .tensor_parallel import TensorIO

AGAIN = 3  # at most this many steps are checked: a branch initialized to 0 passes no gradient at first
OFF = "If this is intended, disable these checks with Strategy(check=False)."


class Passed(NamedTuple):
    """A unit's input x (None for the first unit) and output y."""

    path: str
    x: Tensor | None
    y: Tensor


class Wrong(NamedTuple):
    """An error found on some rank. The smallest (kind, place) of all ranks is reported."""

    kind: int  # outputs first: a wrong output makes everything after it wrong too
    place: int
    message: str


class DivisionChecks:
    """The checks of one model: `look` before the first backward, `see` during it, `compare` after it."""

    def __init__(self, plan: Plan, model: Model, world: Communicator) -> None:
        self.plan, self.model, self.group, self.world = plan, model, plan.io.group, world
        self.seen: dict[Parameter, Numbers] = {}
        self.steps, self.over = 0, False

    def look(self, batch: Batch) -> None:
        """Check rows and borders before the first backward. Raise UserError if one is wrong. All ranks must call it."""
        if self.plan.looks or self.plan.sequence:  # the same on all stages of a pipeline: they check together
            with no_grad(), Ledger().open():
                self.forward(batch)
        if not (self.plan.sequence or self.plan.joined):
            self.plan.io.borders = Borders()

    def forward(self, batch: Batch) -> None:
        """Run a forward as in training; under sequence parallel, run a second one on the whole sequence and compare.

        Raise UserError if the two forwards differ, or if the ranks' outputs of the second differ.
        """
        self.plan.io.look = self
        try:
            shards = outputs(self.model, batch)
        finally:
            self.plan.io.look = None
        if self.plan.sequence:
            with whole_borders(self.plan.io):
                wholes = outputs(self.model, batch)
            made: Notes = {}
            for path, _, y in wholes:
                note(made, path, y.data)
            for wrong in self.wrong_output(self.group.gather_objects(made)):
                raise UserError(wrong.message)
            self.check_borders(batch, shards, wholes)

    def check_dropout(self, path: str, x: Tensor) -> None:
        """Raise UserError if x is divided by columns: a residual dropout applies the same mask on all ranks."""
        if self.plan.sequence:  # in that case divided columns have all positions: the mask does not fit
            return
        every = self.group.gather_objects((x.shape, sums(x.data)))
        if len({shape for shape, _ in every}) > 1 or not alike([numbers for _, numbers in every], bound_of(x.dtype)):
            raise UserError(
                f"plan.residual({path}): its input differs between the ranks along tp, but a Dropout draws its "
                f"mask for whole rows.\nMove it after the row layer, or set p = 0 and use plan.inside. {OFF}"
            )

    def check_borders(self, batch: Batch, shards: list[Passed], wholes: list[Passed]) -> None:
        """Raise UserError for the first unit whose outputs from sequence shards and from the whole sequence differ."""
        time = batch.where.time
        shard = shard_of(time.stop - time.start, self.group.size, self.group.rank)
        for one, whole in zip(shards, wholes, strict=True):
            if any(self.group.gather_objects(far(one, whole, shard))):
                raise UserError(
                    f"under sequence parallel {one.path} computes a different result from shards of the sequence than "
                    "from the whole: something in it uses several positions outside the divided layers, or it reads "
                    "what another unit has stored, which is a shard of the sequence.\n"
                    f"Divide it in `shard`; or use plan.everywhere, or plan.gather if it computes the loss. {OFF}"
                )

    def see(self, bucket: Bucket) -> None:
        """Record the gradients of a bucket, before they are reduced over ranks."""
        for p in bucket.parameters:
            if p not in self.seen and p.placement.local == p.placement.shape and p.grad is not None:
                self.seen[p] = sums(p.grad)

    def compare(self) -> None:
        """Compare the ranks along tp. Raise UserError if they differ where they must agree, or vice versa.

        Set `over` once every gradient has been nonzero on some rank, or after AGAIN steps.
        """
        borders, self.plan.io.borders = self.plan.io.borders or Borders(), None
        looks = self.group.gather_objects((borders.made, borders.gradients, [*self.seen.values()]))
        made, back, every = (list(of_all) for of_all in zip(*looks, strict=True))
        silent = any(not any(rank[i][1] for rank in every) for i in range(len(self.seen)))
        found = [*self.wrong_output(made), *self.wrong_border(back), *self.wrong_gradient(every)]
        self.seen.clear()
        self.steps += 1
        stages = self.world.gather_objects((found, silent))  # all stages take part
        if wrong := [one for found, _ in stages for one in found]:
            raise UserError(min(wrong).message)
        self.over = self.steps == AGAIN or not any(waiting for _, waiting in stages)

    def wrong_output(self, every: list[Notes]) -> list[Wrong]:
        """Return the first unit whose output differs between ranks."""
        return [
            Wrong(
                0,
                self.plan.places[path],
                f"the output of {path} differs between the ranks along tp: their partial results were not summed.\n"
                "Divided layers (plan.column, heads, split) must be followed by a plan.row, and a split preceded by a "
                f"plan.column; only its own layer may use a divided parameter. {OFF}",
            )
            for path in unlike(every)[:1]
        ]

    def wrong_border(self, every: list[Notes]) -> list[Wrong]:
        """Return the last unit whose input's gradient differs between ranks; earlier ones then differ too."""
        return [
            Wrong(
                1,
                -self.plan.places[path],
                f"the gradient of the input of {path} differs between the ranks along tp: something in it is whole on "
                "every rank, reads x directly, and meets divided columns.\n"
                f"If that is a layer, use plan.enter or plan.column for it, or keep the whole unit undivided. {OFF}",
            )
            for path in unlike(every)[:1]
        ]

    def wrong_gradient(self, every: list[list[Numbers]]) -> list[Wrong]:
        """Return the first parameter whose gradient is partial but should be whole, or whole but should be partial."""
        for i, p in enumerate(self.seen):
            numbers, partial = [rank[i] for rank in every], self.plan.held.partial(p)
            how, layer = self.plan.held.of(p)
            words = spoken(how, layer)
            if partial and alike(numbers, 1e-14) and numbers[0][1]:
                text = (
                    f"{p.placement.path} has the same gradient on every rank along tp, but `shard` declares it "
                    f"partial ({words}): it would count {len(every)} times.\n"
                    f"If {layer} gets the whole x, use plan.{'everywhere' if self.plan.sequence else 'residual'}. {OFF}"
                )
                return [Wrong(2, 0, text)]
            if not partial and not alike(numbers, bound_of(p.dtype)):
                text = (
                    f"{p.placement.path} has a different gradient on each rank along tp, but `shard` declares it "
                    f"whole ({words}): the ranks would drift apart.\n{cure(how, layer)} {OFF}"
                )
                return [Wrong(2, 0, text)]
        return []


def cure(how: str, layer: str) -> str:
    """Return advice for a gradient that is partial but should be whole."""
    inside = "" if how == "whole" else f"If {layer} is used only between column and row, use plan.inside. "
    return f"{inside}If its result goes to a whole layer that meets divided columns, use plan.enter for that layer."


def far(one: Passed, whole: Passed, shard: slice) -> bool:
    """Return whether a unit's output from a shard differs from slice `shard` of its output from the whole sequence.

    A branch with a small scale hardly changes y, so y - x is compared as well. The tolerance of 2% is far above the
    rounding error of the branch and far below the effect of a wrong position; a second term allows for the rounding
    of y itself. Half precision has too few digits for y - x.
    """
    y, true, dtype = on_host(one.y), positions(whole.y, one.y, shard), one.y.dtype
    if true.shape != y.shape:
        return True
    bound = {2: 0.05, 4: 1e-3, 8: 1e-9}[dtype.itemsize]
    if not largest(y - true) <= bound * max(largest(true), 1e-30):
        return True
    if one.x is None or whole.x is None or (one.x.shape, whole.x.shape) != (one.y.shape, whole.y.shape):
        return False
    added, all_added = y - on_host(one.x), on_host(whole.y) - on_host(whole.x)
    off = largest(added - (true - positions(whole.x, one.x, shard)))
    return dtype.itemsize > 2 and off > 2e-2 * largest(all_added) + 16 * float(np.finfo(dtype).eps) * largest(true)


def positions(whole: Tensor, part: Tensor, shard: slice) -> np.ndarray:
    """Return positions `shard` of whole (B, T, ...), or all of it if it is not divided, like a loss."""
    x = on_host(whole)
    return x[:, shard] if x.ndim > 1 and x.shape != part.shape else x


def on_host(x: Tensor) -> np.ndarray:
    """Return the values of x as a NumPy array, in float64."""
    return to_host(x.data).astype(np.float64)


def largest(x: np.ndarray) -> float:
    """Return max |x|, 0 for an empty array."""
    return float(np.abs(x).max()) if x.size else 0.0


def outputs(model: Model, batch: Batch) -> list[Passed]:
    """Return the input and output of each unit on this rank, from one forward."""
    found: list[Passed] = []
    with watching(lambda path, x, y: found.append(Passed(path, x, y))):
        model.trial(batch)
    return found


@contextmanager
def whole_borders(io: TensorIO) -> Iterator[None]:
    """Keep activations whole between the divided layers inside this context, as in tensor parallel."""
    kind = type(io)
    io.__class__ = TensorIO
    try:
        yield
    finally:
        io.__class__ = kind
