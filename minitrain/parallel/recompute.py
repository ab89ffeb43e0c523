"""A segment: some units of the model as one operation on the tape, replayed in backward or not.

    stored      x0 -> [unit] -> x1 -> [unit] -> x2        every unit keeps what its backward needs
    replayed    x0 -> [ unit  ->  unit ] ------> x2       only x0 is kept; backward computes the forward again

While backward replays segment i, what is kept are the inputs of segments 1 to i and the activations inside i. In a
chain of L equal layers, each of which keeps one array of the size of its input, with segments of k layers, that is

    max over segments i of  (i + length of i)  arrays,      about L/k + k,      least, 2 sqrt(L), at k = sqrt(L),

instead of L, at the price of one more forward of all that is replayed. Chen, Xu, Zhang, Guestrin, "Training Deep Nets
with Sublinear Memory Cost", arXiv:1604.06174.

ZeRO-3 needs the same thing for another reason: it has to do something `around` the forward and the backward of a
unit, namely gather its parameters and drop them. When it replays as well, one gather serves replay and backward.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..autograd import Tensor, apply, backward, deferring, inside, no_grad, recording
from ..backend import Array, xp
from ..data.batch import Batch
from ..models import Units
from ..nn import Module

Around = Callable[[Sequence[Module]], AbstractContextManager[Any]]


def nothing(units: Sequence[Module]) -> AbstractContextManager[Any]:
    """The `around` of a segment whose parameters are always there."""
    return nullcontext()


class Segment(Units):
    """`units`, one after the other, as a unit. replay: keep only the input and compute the forward again in backward.

    around: called with the units, its context surrounds their forward, and again their backward.
    """

    def __init__(self, units: Sequence[Module], replay: bool = False, around: Around = nothing) -> None:
        super().__init__(list(units))
        self.replay, self.around = replay, around

    def __str__(self) -> str:
        return " + ".join(unit.path or type(unit).__name__ for unit in self.units)

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        """What the units make of x (nothing for the first one of a model).

        The operation's own tape ends at a leaf with x's values; its backward is run inside the vjp, where parameters
        collect their gradients without being told that they are complete. The outer tape counts them instead, since
        another segment may use them, too; the one used last comes first, as in the order in which buckets leave.
        """
        inputs = () if x is None or not x.requires_grad else (x,)
        leaf = None if x is None else Tensor(x.data, requires_grad=bool(inputs))
        with self.around(self.units), inside(self):
            if self.replay and recording():
                with no_grad():
                    y = self.through(leaf, batch)
            else:
                y = self.through(leaf, batch)
        kept = None if self.replay else y

        def vjp(g: Array) -> tuple[Array, ...]:
            with self.around(self.units), inside(self):
                backward([self.through(leaf, batch) if kept is None else kept], [g], deferring(), fire=False)
            return tuple(_gradient(leaf) for _ in inputs)

        weights = [(p, None) for p in reversed(self.parameters())]
        return apply(y.data, inputs, vjp, weights, saved=(leaf,) if self.replay and inputs else ())


def _gradient(leaf: Tensor | None) -> Array:
    """What has arrived at the leaf; zeros when the units make no use of their input."""
    assert leaf is not None
    return xp.zeros_like(leaf.data) if leaf.grad is None else leaf.grad


def segments(units: Sequence[Module], length: int, replay: bool) -> list[Segment]:
    """The units in runs of `length`, the last one perhaps shorter."""
    return [Segment(units[i : i + length], replay) for i in range(0, len(units), length)]
