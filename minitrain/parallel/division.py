"""Is a model divided as its `shard` says? What cannot be seen from outside is looked at in the first step.

    gradients   what every rank along tp holds whole has the same gradient on all of them, or a part of it on each
    ranks       between the units, where nothing is divided, all ranks have the same activations and gradients
    rows        a layer that `row` divides is linear, since its results are added up: f(-2x) = -2 f(x)
    borders     with a share of the time between the divided layers, and with all of it, the units make the same

While a gradient is 0, as behind a branch that begins with 0, it is looked again in the next steps, three in all.

Cost: two numbers a parameter and a unit, sent once; under sequence parallel, or with a row of one's own, one or two
forwards without a backward. What they send is not in the run's ledger. Only a comparison with the serial run sees more,
such as a softmax over divided columns: `python -m minitrain compare model`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from ..autograd import Tensor, no_grad
from ..backend import to_host
from ..comm.communicator import Communicator
from ..data.batch import Batch
from ..errors import UserError
from ..models import Model
from ..nn import Parameter, watching
from ..observe.ledger import Ledger
from ..shares import share
from .borders import Borders, Notes, Numbers, alike, bound_of, note, sums, unlike
from .flat import Bucket
from .naming import spoken
from .plan import Plan
from .tensor_parallel import TensorIO

AGAIN = 3  # steps in which is looked, at most: what lies behind a branch that begins with 0 has no gradient at first
OFF = "Should it be right as it is, Strategy(check=False) leaves these checks out."


class Passed(NamedTuple):
    """What a unit makes of x."""

    path: str
    x: Tensor | None
    y: Tensor


class Wrong(NamedTuple):
    """Of all that are found on some rank, the least is said."""

    kind: int  # outputs first: what follows from them is wrong as well
    place: int
    said: str


class Division:
    """The looks at one model; `compare` is the last of them."""

    def __init__(self, plan: Plan, model: Model, world: Communicator) -> None:
        self.plan, self.model, self.group, self.world = plan, model, plan.io.group, world
        self.seen: dict[Parameter, Numbers] = {}
        self.steps, self.over = 0, False

    def look(self, batch: Batch) -> None:
        """Before the first backward: rows and borders. Called by all ranks of the model."""
        if self.plan.looks or self.plan.sequence:  # of all stages of a pipeline: they look together
            with no_grad(), Ledger().open():
                self.forward(batch)
        if not (self.plan.sequence or self.plan.joined):
            self.plan.io.borders = Borders()

    def forward(self, batch: Batch) -> None:
        """A forward with shares of the time, as they are, and under sequence parallel one with all of it."""
        self.plan.io.look = self
        try:
            shares = outputs(self.model, batch)
        finally:
            self.plan.io.look = None
        if self.plan.sequence:
            with whole_borders(self.plan.io):
                wholes = outputs(self.model, batch)
            made: Notes = {}
            for path, _, y in wholes:
                note(made, path, y.data)
            for wrong in self.wrong_output(self.group.gather_objects(made)):
                raise UserError(wrong.said)
            self.check_borders(batch, shares, wholes)

    def check_dropout(self, path: str, x: Tensor) -> None:
        """Raise UserError for a residual dropout that is given a part of the columns: all would get one mask."""
        if self.plan.sequence:  # a part of them has all of the time, and the mask does not fit
            return
        every = self.group.gather_objects((x.shape, sums(x.data)))
        if len({shape for shape, _ in every}) > 1 or not alike([numbers for _, numbers in every], bound_of(x.dtype)):
            raise UserError(
                f"plan.residual({path}): it is given something else on each rank along tp, and a Dropout draws its "
                f"mask for whole rows.\nPut it behind the row, or give it p = 0 and say plan.inside. {OFF}"
            )

    def check_borders(self, batch: Batch, shares: list[Passed], wholes: list[Passed]) -> None:
        """Raise UserError for the first unit that makes something else of shares than of the whole."""
        time = batch.where.time
        own = share(time.stop - time.start, self.group.size, self.group.rank)
        for one, whole in zip(shares, wholes, strict=True):
            if any(self.group.gather_objects(far(one, whole, own))):
                raise UserError(
                    f"under sequence parallel {one.path} makes something else of shares of the time than of all of it: "
                    "something in it looks at several positions, between layers that are not divided; or it reads what "
                    "another unit has kept, which is a share of the time.\n"
                    f"Divide it in `shard`; or plan.everywhere(it), or plan.gather(it) if it makes the loss. {OFF}"
                )

    def see(self, bucket: Bucket) -> None:
        """The gradients of a bucket, before they are added up over ranks."""
        for p in bucket.parameters:
            if p not in self.seen and p.placement.local == p.placement.shape and p.grad is not None:
                self.seen[p] = sums(p.grad)

    def compare(self) -> None:
        """Raise UserError for what differs on the ranks along tp where it should not, or is the same where it should.

        Where all gradients have shown themselves the looks are over; the others are waited for, some steps long.
        """
        borders, self.plan.io.borders = self.plan.io.borders or Borders(), None
        told = self.group.gather_objects((borders.made, borders.gradients, [*self.seen.values()]))
        made, back, every = (list(of_all) for of_all in zip(*told, strict=True))
        silent = any(not any(rank[i][1] for rank in every) for i in range(len(self.seen)))
        found = [*self.wrong_output(made), *self.wrong_border(back), *self.wrong_gradient(every)]
        self.seen.clear()
        self.steps += 1
        stages = self.world.gather_objects((found, silent))  # which look together
        if wrong := [one for found, _ in stages for one in found]:
            raise UserError(min(wrong).said)
        self.over = self.steps == AGAIN or not any(waiting for _, waiting in stages)

    def wrong_output(self, every: list[Notes]) -> list[Wrong]:
        """The first unit that does not make the same on each rank."""
        return [
            Wrong(
                0,
                self.plan.places[path],
                f"{path} makes something else on each rank along tp: what they made of their parts was not added up.\n"
                "Behind what is divided (plan.column, heads, split) comes a layer that is named plan.row, and before a "
                f"split a plan.column; a divided parameter is used by its own layer alone. {OFF}",
            )
            for path in unlike(every)[:1]
        ]

    def wrong_border(self, every: list[Notes]) -> list[Wrong]:
        """The last unit whose x does not have the same gradient on each rank; in those before it is wrong, too."""
        return [
            Wrong(
                1,
                -self.plan.places[path],
                f"the gradient of what enters {path} differs on the ranks along tp: something in it is whole on every "
                "rank, takes x as it is, and meets divided columns.\n"
                f"If that is a layer, say plan.enter(it); or make it a plan.column, or leave all of it whole. {OFF}",
            )
            for path in unlike(every)[:1]
        ]

    def wrong_gradient(self, every: list[list[Numbers]]) -> list[Wrong]:
        """The first parameter whose gradient is partial where it should be whole, or whole where partial."""
        for i, p in enumerate(self.seen):
            numbers, partial = [rank[i] for rank in every], self.plan.partial(p)
            how, layer = self.plan.held.get(p, ("residual", p.placement.path))
            said = spoken(how, layer)
            if partial and alike(numbers, 1e-14) and numbers[0][1]:
                text = (
                    f"{p.placement.path} has the same gradient on each rank along tp, and `shard` says that each has "
                    f"a part of it ({said}): it would count {len(every)} times.\n"
                    f"If {layer} is given all of x: plan.{'everywhere' if self.plan.sequence else 'residual'}. {OFF}"
                )
                return [Wrong(2, 0, text)]
            if not partial and not alike(numbers, bound_of(p.dtype)):
                text = (
                    f"{p.placement.path} has another gradient on each rank along tp, and `shard` says that each has "
                    f"the whole of it ({said}): the ranks would drift apart.\n{cure(how, layer)} {OFF}"
                )
                return [Wrong(2, 0, text)]
        return []


def cure(how: str, layer: str) -> str:
    """What to say of a gradient that should be whole."""
    inside = "" if how == "whole" else f"If {layer} is used between column and row alone, say plan.inside. "
    return f"{inside}If what takes its result is whole, and meets divided columns: plan.enter(that)."


def far(one: Passed, whole: Passed, own: slice) -> bool:
    """Whether what a unit makes of a share differs, by more than rounding, from this share of what it makes of all.

    What a branch adds may be lost in y, as behind a small scale: so y - x is compared, too. 2% of it are far above its
    own rounding, and far below what another position changes; y itself is rounded once or twice, by half a digit. In
    half precision there are too few digits for a difference.
    """
    y, true, dtype = on_host(one.y), own_part(whole.y, one.y, own), one.y.dtype
    if true.shape != y.shape:
        return True
    bound = {2: 0.05, 4: 1e-3, 8: 1e-9}[dtype.itemsize]
    if not largest(y - true) <= bound * max(largest(true), 1e-30):
        return True
    if one.x is None or whole.x is None or (one.x.shape, whole.x.shape) != (one.y.shape, whole.y.shape):
        return False
    added, all_added = y - on_host(one.x), on_host(whole.y) - on_host(whole.x)
    off = largest(added - (true - own_part(whole.x, one.x, own)))
    return dtype.itemsize > 2 and off > 2e-2 * largest(all_added) + 16 * float(np.finfo(dtype).eps) * largest(true)


def own_part(whole: Tensor, part: Tensor, own: slice) -> np.ndarray:
    """The rows `own` of the time, unless it is as it is on each rank, like a loss."""
    x = on_host(whole)
    return x[:, own] if x.ndim > 1 and x.shape != part.shape else x


def on_host(x: Tensor) -> np.ndarray:
    return to_host(x.data).astype(np.float64)


def largest(x: np.ndarray) -> float:
    return float(np.abs(x).max()) if x.size else 0.0


def outputs(model: Model, batch: Batch) -> list[Passed]:
    """What each unit on this rank makes of the batch."""
    found: list[Passed] = []
    with watching(lambda path, x, y: found.append(Passed(path, x, y))):
        model.trial(batch)
    return found


@contextmanager
def whole_borders(io: TensorIO) -> Iterator[None]:
    """Meanwhile, activations are whole outside the divided layers."""
    kind = type(io)
    io.__class__ = TensorIO
    try:
        yield
    finally:
        io.__class__ = kind
