"""What an optimizer updates: flat arrays, and the pieces of parameters that stand in them."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..backend import Array, square, xp
from ..errors import UserError, shown
from ..nn import Parameter
from ..shares import Cuts

SMALL = 2.0**-96

steps_begun = itertools.count()  # numbers the steps of all reducers, so that a scaler can tell what came before


class Piece(NamedTuple):
    """A run of the elements of a parameter (of what this rank holds of it, flat), and where they stand in an array."""

    parameter: Parameter
    run: slice
    place: slice


class Held(NamedTuple):
    """A flat array that this rank updates: its share of a bucket, or all of it. `decay`: whether weight decay applies.

    pieces: which parameters stand in it. cuts: the shares of a bucket that it holds.
    """

    data: Array
    decay: bool
    pieces: tuple[Piece, ...] = ()
    cuts: Cuts = ()


class Owned(NamedTuple):
    """And its gradient."""

    data: Array
    grad: Array
    decay: bool
    pieces: tuple[Piece, ...] = ()
    cuts: Cuts = ()


Found = Sequence[tuple[Parameter, np.ndarray]]  # what was found on the pieces of the parameters
Totals = dict[Parameter, np.ndarray]


class Slices(Protocol):
    """Whatever holds the gradients: parallel.reducer.Reducer, or Alone."""

    factor: float

    def held(self) -> list[Held]: ...

    def owned(self) -> list[Owned]: ...

    def norm(self) -> float: ...

    def over_pieces(self, found: Found) -> Totals: ...

    def logical(self, p: Parameter, flat: Array) -> Array: ...

    def paths(self) -> set[str]: ...


class Alone:
    """The parameters of a model on one process, without a reducer: each one a piece."""

    factor = 1.0

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        """Raise UserError for what is no list of parameters, each once, and for those that a reducer holds."""
        self.parameters = list(parameters) if isinstance(parameters, Iterable) else [parameters]
        for p in self.parameters:
            if not isinstance(p, Parameter) or p.bucket is not None:
                why = f"{p.placement.path} has a reducer" if isinstance(p, Parameter) else f"{shown(p)} is given"
                raise UserError(f"an optimizer takes a reducer, or model.parameters() of a model without one; {why}")
        self.trained = [p for p in self.parameters if p.requires_grad]
        if not self.trained or len(set(self.parameters)) < len(self.parameters):
            raise UserError(
                f"an optimizer takes parameters to train, each once; {len(self.parameters)} are given, of which "
                f"{len(set(self.parameters))} are different and {len(set(self.trained))} of these to be trained"
            )

    def held(self) -> list[Held]:
        return [Held(*it) for it in self._arrays()]

    def owned(self) -> list[Owned]:
        """A parameter without a gradient has zeros."""
        grads = (xp.zeros(p.shape, p.dtype) if p.grad is None else p.grad for p in self._trained())
        return [Owned(it[0], grad.reshape(-1), *it[1:]) for it, grad in zip(self._arrays(), grads, strict=True)]

    def norm(self) -> float:
        return math.fsum(square(p.grad.reshape(-1)) for p in self._trained() if p.grad is not None) ** 0.5

    def over_pieces(self, found: Found) -> Totals:
        return dict(found)

    def logical(self, p: Parameter, flat: Array) -> Array:
        return flat.reshape(p.shape)

    def paths(self) -> set[str]:
        return {p.placement.path for p in self.trained}

    def _trained(self) -> list[Parameter]:
        """Raise UserError for a change of what is trained: the state belongs to those that were."""
        trained = set(self.trained)
        for p in self.parameters:
            if p.requires_grad != (p in trained):
                raise UserError(
                    f"{p.placement.path} was {'un' if p.requires_grad else ''}frozen after its optimizer was made; "
                    "do it before, or make a new optimizer"
                )
        return self.trained

    def _arrays(self) -> Iterator[tuple[Array, bool, tuple[Piece, ...], Cuts]]:
        for p in self._trained():
            if not p.data.flags.c_contiguous:  # a flat view would be a copy
                p.data = xp.ascontiguousarray(p.data)
            every = slice(0, p.data.size)
            yield p.data.reshape(-1), p.decay, (Piece(p, every, every),), (every,)


def unscaled(stored: Array, dtype: Any, factor: float) -> Array:
    """A stored gradient in this dtype, times the factor; where that changes nothing, the same array."""
    g = stored.astype(dtype, copy=False)
    while 0 < factor < SMALL:  # float32 would round it: the gradients are as large as the factor is small
        g, factor = g * g.dtype.type(SMALL), factor / SMALL
    return g if factor == 1 else g * g.dtype.type(factor)
