"""Is a model divided as its `shard` says? What cannot be seen from outside is looked at in the first step.

    gradients   what every rank along tp holds whole has the same gradient on all of them, or a part of it on each
    rows        a layer that `row` divides is linear, since its results are added up: f(-2x) = -2 f(x)
    ranks       where nothing is divided, all ranks make the same
    borders     with a share of the time between the divided layers, and with all of it, the loss is the same

While a gradient is 0, as behind a branch that begins with 0, it is looked again in the next steps, three in all.

Cost: two numbers a parameter, sent once; under sequence parallel, or with a row of one's own, one or two forwards
without a backward. What they send is not in the run's ledger. Only a comparison with the serial run sees more, such as
a softmax over divided columns: `python -m minitrain compare model`.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ..autograd import Tensor, no_grad
from ..backend import Array, to_host
from ..comm.communicator import Communicator
from ..data.batch import Batch
from ..errors import UserError
from ..models import Model
from ..nn import Parameter, watching
from ..observe.ledger import Ledger
from ..shares import share
from .flat import Bucket
from .plan import Plan
from .tensor_parallel import TensorIO

Numbers = tuple[float, float]  # the sum of an array's elements, and of their squares
Outputs = list[tuple[str, Tensor]]  # (path of a unit, what it makes)
AGAIN = 3  # steps in which is looked, at most: what lies behind a branch that begins with 0 has no gradient at first
OFF = "Should it be right as it is, Strategy(check=False) leaves these checks out."


class Division:
    """The looks at one model; `compare` is the last of them."""

    def __init__(self, plan: Plan, model: Model, world: Communicator) -> None:
        self.plan, self.model, self.group, self.world = plan, model, plan.io.group, world
        self.seen: dict[Parameter, Numbers] = {}
        self.steps, self.over = 0, False

    def look(self, batch: Batch) -> None:
        """Before the first backward: rows, ranks and borders. Called by all ranks of the model."""
        if not (self.plan.looks or self.plan.sequence):  # of all stages of a pipeline: they look together
            return
        with no_grad(), Ledger().open():
            self.plan.io.look = self
            try:
                shares = outputs(self.model, batch)
            finally:
                self.plan.io.look = None
            if self.plan.sequence:
                with whole_borders(self.plan.io):
                    wholes = outputs(self.model, batch)
                self.check_ranks(wholes)
                self.check_borders(batch, shares, wholes)
            else:
                self.check_ranks(shares)

    def check_ranks(self, wholes: Outputs) -> None:
        """Raise UserError for the first unit that does not make the same on each rank."""
        every = self.group.gather_objects([sums(y.data) for _, y in wholes])
        for i, (path, y) in enumerate(wholes):
            if not alike([rank[i] for rank in every], bound_of(y.dtype)):
                raise UserError(
                    f"{path} makes something else on each rank along tp: what they made of their parts was not added "
                    "up.\nBehind what is divided (plan.column, heads, split) comes a layer that is named plan.row, and "
                    f"before a split a plan.column. {OFF}"
                )

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

    def check_borders(self, batch: Batch, shares: Outputs, wholes: Outputs) -> None:
        """Raise UserError for the first unit that makes something else of shares than of the whole."""
        for (path, y), (_, whole) in zip(shares, wholes, strict=True):
            time = batch.where.time
            own = share(time.stop - time.start, self.group.size, self.group.rank)
            true = whole.data
            true = true[:, own] if true.ndim > 1 and true.shape != y.shape else true
            wrong = true.shape != y.shape or far(y.data, true)
            if any(self.group.gather_objects(wrong)):
                raise UserError(
                    f"under sequence parallel {path} makes something else of shares of the time than of all of it: "
                    "something in it looks at several positions, between layers that are not divided.\n"
                    f"Divide it in `shard`; or plan.everywhere(it), or plan.gather(it) if it makes the loss. {OFF}"
                )

    def see(self, bucket: Bucket) -> None:
        """The gradients of a bucket, before they are added up over ranks."""
        for p in bucket.parameters:
            if p not in self.seen and p.placement.local == p.placement.shape and p.grad is not None:
                self.seen[p] = sums(p.grad)

    def compare(self) -> None:
        """Raise UserError for a gradient that is partial where it should be whole, or whole where partial.

        Where all gradients have shown themselves the looks are over; the others are waited for, some steps long.
        """
        every = self.group.gather_objects([*self.seen.values()])
        self.steps += 1
        silent = [i for i in range(len(self.seen)) if not any(rank[i][1] for rank in every)]
        self.over = self.steps == AGAIN or not any(self.world.gather_objects(bool(silent)))  # all stages look together
        for i, p in enumerate(self.seen):
            numbers = [rank[i] for rank in every]
            how, layer = self.plan.held.get(p, ("residual", p.placement.path))
            if self.plan.partial(p) and alike(numbers, 1e-14) and numbers[0][1]:
                raise UserError(
                    f"{p.placement.path} has the same gradient on each rank along tp, and `shard` says that each has "
                    f"a part of it (plan.{how}): it would count {len(every)} times.\n"
                    f"If {layer} is given all of x: plan.{'everywhere' if self.plan.sequence else 'residual'}. {OFF}"
                )
            if not self.plan.partial(p) and not alike(numbers, bound_of(p.dtype)):
                raise UserError(
                    f"{p.placement.path} has another gradient on each rank along tp, and `shard` says that each has "
                    f"the whole of it (plan.{how}): the ranks would drift apart.\n"
                    f"If {layer} lies between a column and a row, say plan.inside. Or something behind it takes x, is "
                    f"whole, and meets divided columns: make that a column, or leave all of it whole. {OFF}"
                )
        self.seen.clear()


def sums(x: Array) -> Numbers:
    x = to_host(x).astype(np.float64)
    return float(x.sum()), float(np.vdot(x, x))


def alike(numbers: list[Numbers], bound: float) -> bool:
    """Whether arrays with these sums are the same."""
    (total, square), *others = numbers
    if not all(math.isfinite(x) for pair in numbers for x in pair):
        return True  # an overflow has its own words
    scale = max(b for _, b in numbers) ** 0.5
    return all(abs(a - total) <= bound * scale and abs(b - square) <= bound * scale**2 for a, b in others)


def bound_of(dtype: np.dtype) -> float:
    """How far sums of what is the same may be apart."""
    return 1e-3 if dtype.itemsize < 8 else 1e-8


def far(a: Array, b: Array) -> bool:
    """Whether two results differ by more than rounding."""
    bound = {2: 0.05, 4: 1e-3, 8: 1e-9}[a.dtype.itemsize]
    a, b = (to_host(x).astype(np.float64) for x in (a, b))
    return bool(a.size) and not float(np.abs(a - b).max()) <= bound * max(float(np.abs(b).max()), 1e-30)


def outputs(model: Model, batch: Batch) -> Outputs:
    """What each unit on this rank makes of the batch."""
    found: Outputs = []
    with watching(lambda path, x, y: found.append((path, y))):
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
