"""What an optimizer updates: flat arrays, and the pieces of parameters in them."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ..backend import Array, square, xp
from ..errors import UserError, shown
from ..nn import Parameter
from ..sharding import Shards

if TYPE_CHECKING:
    from ..comm.communicator import Communicator

SMALL = 2.0**-96  # see unscaled

steps_begun = itertools.count()  # numbers the steps of all reducers: a scaler can tell which step came first


class Piece(NamedTuple):
    """A run of elements of a parameter (of this rank's slice, flattened), and its place in a flat array."""

    parameter: Parameter
    run: slice
    place: slice


class Held(NamedTuple):
    """A flat array (n) that this rank updates: its shard of a bucket, or the whole bucket.

    decay: whether weight decay applies. pieces: the parameters in it. shards: the shards of the bucket in it.
    """

    data: Array
    decay: bool
    pieces: tuple[Piece, ...] = ()
    shards: Shards = ()


class Owned(NamedTuple):
    """A Held array with its gradient (n)."""

    data: Array
    grad: Array
    decay: bool
    pieces: tuple[Piece, ...] = ()
    shards: Shards = ()


Found = Sequence[tuple[Parameter, np.ndarray]]  # numbers computed on the pieces of the parameters
Totals = dict[Parameter, np.ndarray]


class Slices(Protocol):
    """The interface that optimizers use: parallel.reducer.Reducer, or Alone."""

    factor: float

    @property
    def world(self) -> "Communicator | None":
        """All ranks that train the model; None without a reducer."""
        ...

    def held(self) -> list[Held]:
        """Return the arrays to update, always in the same order."""
        ...

    def owned(self) -> list[Owned]:
        """Return the same arrays with their gradients."""
        ...

    def norm(self) -> float:
        """Return the norm of the gradient of the whole model, times the factor."""
        ...

    def over_pieces(self, found: Found) -> Totals:
        """Return, for each parameter, the sum of the numbers found on its pieces on all ranks."""
        ...

    def logical(self, p: Parameter, flat: Array) -> Array:
        """Return an array of p's logical shape, of which this rank holds the slice `flat` (n)."""
        ...

    def paths(self) -> set[str]:
        """Return the paths of all trained parameters."""
        ...


class Alone:
    """The parameters of a model on one process, without a reducer: each is one piece."""

    factor = 1.0
    world = None

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        """Raise UserError unless these are distinct parameters without a reducer, at least one of them trained."""
        self.parameters = list(parameters) if isinstance(parameters, Iterable) else [parameters]
        for p in self.parameters:
            if not isinstance(p, Parameter) or p.bucket is not None:
                why = f"{p.placement.path} has a reducer" if isinstance(p, Parameter) else f"got {shown(p)}"
                raise UserError(f"an optimizer takes a reducer, or model.parameters() of a model without one; {why}")
        self.trained = [p for p in self.parameters if p.requires_grad]
        if not self.trained or len(set(self.parameters)) < len(self.parameters):
            raise UserError(
                f"an optimizer takes distinct parameters to train; got {len(self.parameters)}, of which "
                f"{len(set(self.parameters))} are distinct and {len(set(self.trained))} require gradients"
            )

    def held(self) -> list[Held]:
        """Return one array per trained parameter."""
        return [Held(*it) for it in self._arrays()]

    def owned(self) -> list[Owned]:
        """Return the arrays to update. A parameter without a gradient gets zeros."""
        grads = (xp.zeros(p.shape, p.dtype) if p.grad is None else p.grad for p in self._trained())
        return [Owned(it[0], grad.reshape(-1), *it[1:]) for it, grad in zip(self._arrays(), grads, strict=True)]

    def norm(self) -> float:
        """Return the norm of the gradient."""
        return math.fsum(square(p.grad.reshape(-1)) for p in self._trained() if p.grad is not None) ** 0.5

    def over_pieces(self, found: Found) -> Totals:
        """Return `found` unchanged: each parameter is one piece."""
        return dict(found)

    def logical(self, p: Parameter, flat: Array) -> Array:
        """Return flat (n) in p's shape."""
        return flat.reshape(p.shape)

    def paths(self) -> set[str]:
        """Return the paths of the trained parameters."""
        return {p.placement.path for p in self.trained}

    def _trained(self) -> list[Parameter]:
        """Return the trained parameters. Raise UserError if one was frozen or unfrozen: the state would not match."""
        trained = set(self.trained)
        for p in self.parameters:
            if p.requires_grad != (p in trained):
                raise UserError(
                    f"{p.placement.path} was {'un' if p.requires_grad else ''}frozen after its optimizer was made; "
                    "do so before, or make a new optimizer"
                )
        return self.trained

    def _arrays(self) -> Iterator[tuple[Array, bool, tuple[Piece, ...], Shards]]:
        for p in self._trained():
            if not p.data.flags.c_contiguous:  # a flat view would be a copy
                p.data = xp.ascontiguousarray(p.data)
            every = slice(0, p.data.size)
            yield p.data.reshape(-1), p.decay, (Piece(p, every, every),), (every,)


def unscaled(stored: Array, dtype: Any, factor: float) -> Array:
    """Return a stored gradient in this dtype, times the factor: the same array if neither changes anything."""
    g = stored.astype(dtype, copy=False)
    while 0 < factor < SMALL:  # too small to be exact in float32; the gradients are correspondingly large
        g, factor = g * g.dtype.type(SMALL), factor / SMALL
    return g if factor == 1 else g * g.dtype.type(factor)
