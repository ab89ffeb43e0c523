"""Activation recomputation. A segment makes a run of units one operation on the tape, which backward may replay.

    stored      x0 -> [unit] -> x1 -> [unit] -> x2        every unit keeps what its backward needs
    replayed    x0 -> [ unit  ->  unit ] ------> x2       only x0 is kept; backward computes the forward again

While backward replays segment i, memory holds the inputs of segments 1 to i and the activations inside i. For a chain
of L equal layers, each of which keeps one array of the size of its input, and segments of k layers, that is

    max over segments i of  (i + length of i)  arrays,      about L/k + k,      minimal, 2 sqrt(L), at k = sqrt(L),

instead of L, at the cost of one more forward of each replayed segment. Chen, Xu, Zhang, Guestrin, "Training Deep Nets
with Sublinear Memory Cost", arXiv:1604.06174.

ZeRO-3 uses segments too: their `around` hook gathers a unit's parameters before its forward and its backward, and frees
them afterwards. If the segment is also replayed, one gather serves both replay and backward.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..autograd import apply, backward, deferring, inside, no_grad, recording
from ..backend import Array, xp
from ..data.batch import Batch
from ..models import Sequential
from ..nn import Module
from ..observe.recorder import span
from ..tensor import Tensor

Around = Callable[[Sequence[Module]], AbstractContextManager[Any]]


def nothing(units: Sequence[Module]) -> AbstractContextManager[Any]:
    """Return a context that does nothing: the `around` of a segment whose parameters are always in memory."""
    return nullcontext()


class Segment(Sequential):
    """A sequence of units as one unit. replay: keep only the input, and compute the forward again in backward.

    around: called with the units, it returns a context to enter around their forward, and another around backward.
    """

    def __init__(self, units: Sequence[Module], replay: bool, around: Around = nothing) -> None:
        super().__init__(list(units))
        self.replay, self.around = replay, around

    def __str__(self) -> str:
        return " + ".join(unit.path or type(unit).__name__ for unit in self.units)

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        """Return the units' output for x (B, T, ...), or for None if the segment begins the model.

        The segment's own tape ends at a leaf with x's values. Its backward runs inside the vjp and accumulates
        parameter gradients, but does not signal that they are complete: another segment may use the parameters too, so
        the outer tape counts their uses. The weights are listed last used first, the order in which buckets
        are reduced.
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
                backward([self.again(leaf, batch) if kept is None else kept], [g], deferring(), fire=False)
            return tuple(_gradient(leaf) for _ in inputs)

        weights = [(p, None) for p in reversed(self.parameters())]
        return apply(y.data, inputs, vjp, weights, saved=(leaf,) if self.replay and inputs else ())

    def again(self, leaf: Tensor | None, batch: Batch) -> Tensor:
        """Compute the forward again. leaf (B, T, ...): the input. Return the output."""
        with span(f"recompute {self}", "recompute"):
            return self.through(leaf, batch)


def _gradient(leaf: Tensor | None) -> Array:
    """Return the leaf's gradient; zeros if the units do not use their input."""
    assert leaf is not None
    return xp.zeros_like(leaf.data) if leaf.grad is None else leaf.grad


def segments(units: Sequence[Module], length: int, replay: bool) -> list[Segment]:
    """Group the units into segments of `length`; the last one may be shorter."""
    return [Segment(units[i : i + length], replay) for i in range(0, len(units), length)]
