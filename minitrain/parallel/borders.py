"""What passes between the units of a divided model: the same on all ranks along tp, forwards and backwards.

Of an array two numbers are enough to tell whether the ranks have the same: its sum, and that of its squares.
"""

import math
from collections.abc import Callable

import numpy as np

from ..autograd import Tensor, apply, operation
from ..backend import Array, to_host

Numbers = tuple[float, float]  # the sum of an array's elements, and of their squares
Notes = dict[str, tuple[Numbers, float]]  # path of a unit -> of what passes there, and how far they may be apart


class Borders:
    """What passes between the units in a step's own forward and backward: of each unit the first, as of a micro-batch.

    For tensor parallel: under sequence parallel each rank has a share of its own there.
    """

    def __init__(self) -> None:
        self.made: Notes = {}
        self.gradients: Notes = {}

    def enter(self, path: str, x: Tensor) -> Tensor:
        """x, whose gradient is noted when it comes back."""
        return x if path in self.gradients else shown_gradient(x, lambda g: note(self.gradients, path, g))

    def leave(self, path: str, y: Tensor) -> Tensor:
        """y, which is noted."""
        if isinstance(y, Tensor):  # anything else is refused in a moment
            note(self.made, path, y.data)
        return y


@operation
def shown_gradient(x: Tensor, show: Callable[[Array], None]) -> Tensor:
    """y = x; gx = g, which is shown."""

    def vjp(g: Array) -> tuple[Array]:
        show(g)
        return (g,)

    return apply(x.data, (x,), vjp)


def note(notes: Notes, path: str, x: Array) -> None:
    if path not in notes:
        notes[path] = (sums(x), bound_of(x.dtype))


def unlike(every: list[Notes]) -> list[str]:
    """The paths of the notes that are not the same on each rank."""
    nothing = ((0.0, 0.0), 0.0)
    return [
        path
        for path, (_, bound) in every[0].items()
        if not alike([rank.get(path, nothing)[0] for rank in every], bound)
    ]


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
