"""Check that activations and gradients between the units of a divided model are the same on all ranks along tp.

Two numbers per array are compared across ranks: its sum, and the sum of its squares.
"""

import math
from collections.abc import Callable

import numpy as np

from ..autograd import apply
from ..backend import Array, to_host
from ..tensor import Tensor, operation

Numbers = tuple[float, float]  # the sum of an array's elements, and of their squares
Notes = dict[str, tuple[Numbers, float]]  # a unit's path -> the numbers of an array there, and their tolerance


class Borders:
    """Record the arrays between units in the forward and backward of a step, for the first micro-batch of each unit.

    For tensor parallel only: under sequence parallel, each rank has a different shard of the sequence there.
    """

    def __init__(self) -> None:
        self.made: Notes = {}
        self.gradients: Notes = {}

    def enter(self, path: str, x: Tensor) -> Tensor:
        """Return x (B, T, ...), the input of a unit, and record its gradient in backward."""
        return x if path in self.gradients else shown_gradient(x, lambda g: note(self.gradients, path, g))

    def leave(self, path: str, y: Tensor) -> Tensor:
        """Record y (B, T, ...) or a loss (), the output of a unit, and return it."""
        if isinstance(y, Tensor):  # `pass_through` rejects anything else next
            note(self.made, path, y.data)
        return y


@operation
def shown_gradient(x: Tensor, show: Callable[[Array], None]) -> Tensor:
    """y = x; gx = g. Call show(g) in backward."""

    def vjp(g: Array) -> tuple[Array]:
        show(g)
        return (g,)

    return apply(x.data, (x,), vjp)


def note(notes: Notes, path: str, x: Array) -> None:
    """Record the numbers of x, unless the path already has an entry."""
    if path not in notes:
        notes[path] = (sums(x), bound_of(x.dtype))


def unlike(every: list[Notes]) -> list[str]:
    """Return the paths whose entries differ between ranks. every: each rank's notes."""
    nothing = ((0.0, 0.0), 0.0)
    return [
        path
        for path, (_, bound) in every[0].items()
        if not alike([rank.get(path, nothing)[0] for rank in every], bound)
    ]


def sums(x: Array) -> Numbers:
    """Return the sum of x and the sum of its squares, computed in float64."""
    x = to_host(x).astype(np.float64)
    return float(x.sum()), float(np.vdot(x, x))


def alike(numbers: list[Numbers], bound: float) -> bool:
    """Return whether arrays with these numbers agree within `bound` times their norm; True if any has overflowed."""
    (total, square), *others = numbers
    if not all(math.isfinite(x) for pair in numbers for x in pair):
        return True  # overflow is reported elsewhere
    scale = max(b for _, b in numbers) ** 0.5
    return all(abs(a - total) <= bound * scale and abs(b - square) <= bound * scale**2 for a, b in others)


def bound_of(dtype: np.dtype) -> float:
    """Return the relative tolerance for the numbers of arrays of this dtype that should be equal."""
    return 1e-3 if dtype.itemsize < 8 else 1e-8
