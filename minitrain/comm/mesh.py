"""The mesh: the world's ranks as an array with named axes.

    Mesh(world, dp=2, tp=2).ranks          tp ->        tp is innermost: its groups talk most and get neighbours
        [[0, 1],                        dp  0 1
         [2, 3]]                         |  2 3

The group of an axis is a slice along it: rank 2's dp group is its column [0, 2], its tp group the row [2, 3]. Tensor
parallel talks in every layer, a pipeline at its stages' borders, data parallel once an update: so the innermost axis
gets the ranks that stand next to each other, in one machine.

What an axis divides is said in one place, AXES, and from it follows what a rank holds of the batch and of the model,
and over which ranks gradients are added up. Code asks the mesh for what is divided, not for an axis by its name.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import UserError, check_whole
from .communicator import Communicator


@dataclass(frozen=True)
class Axis:
    """divides: "samples" of the batch, "layers" of the model, or its "matrices". says: what ranks along it do."""

    divides: str
    says: str


AXES = {  # outermost first
    "dp": Axis("samples", "share the batch"),
    "pp": Axis("layers", "have stages of the layers"),
    "tp": Axis("matrices", "share every matrix"),
}


class Mesh:
    """The world cut into axes. Raises UserError when the sizes do not multiply to the number of ranks."""

    def __init__(self, world: Communicator, **sizes: int) -> None:
        self._check(tuple(sizes))
        for axis, n in sizes.items():
            check_whole(axis, n, 1)
        self.world = world
        self.sizes = {axis: sizes.get(axis, 1) for axis in AXES}
        product = math.prod(self.sizes.values())
        if product != world.size:
            cut = " x ".join(f"{axis} {n}" for axis, n in self.sizes.items() if axis in sizes)
            raise UserError(f"{cut} makes {product} ranks, but there are {world.size}: run mpirun -n {product}")
        self.ranks = np.arange(world.size).reshape(list(self.sizes.values()))
        here = np.argwhere(self.ranks == world.rank)[0].tolist()
        self.coordinates = dict(zip(AXES, here, strict=True))

        self._groups: dict[tuple[int, ...], Communicator] = {}

    # By what is divided -----------------------------------------------------------------------------------------------

    @staticmethod
    def along(*what: str) -> tuple[str, ...]:
        """The axes that divide one of these: "samples", "layers", "matrices"."""
        return tuple(name for name, axis in AXES.items() if axis.divides in what)

    def parts(self, *what: str) -> int:
        """Into how many parts they are divided, all together."""
        return math.prod(self.sizes[axis] for axis in self.along(*what))

    def part(self, *what: str) -> int:
        """Which of these parts is this rank's."""
        number = 0
        for axis in self.along(*what):
            number = number * self.sizes[axis] + self.coordinates[axis]
        return number

    def over(self, *what: str) -> Communicator:
        """The ranks that have other parts, and the same of all else; first called by all of them together."""
        return self.group(*self.along(*what))

    # By axis ----------------------------------------------------------------------------------------------------------

    def group(self, *axes: str) -> Communicator:
        """The ranks that differ from this one only along these axes; first called by all of them together."""
        self._check(axes)
        return self.product({axis: tuple(range(self.sizes[axis])) for axis in axes})

    def product(self, coordinates: Mapping[str, tuple[int, ...]]) -> Communicator:
        """The ranks with any of these coordinates along these axes, and this rank's along the others.

        First called by all of them together.
        """
        self._check(tuple(coordinates))
        cut = [list(coordinates.get(axis, (self.coordinates[axis],))) for axis in AXES]
        members = tuple(self.ranks[np.ix_(*cut)].reshape(-1).tolist())
        if members not in self._groups:
            everybody = len(members) == self.world.size
            self._groups[members] = self.world if everybody else self.world.subgroup(members)
        return self._groups[members]

    def table(self) -> str:
        """Who talks to whom, an axis a line."""
        lines = []
        for place, (axis, about) in enumerate(AXES.items()):
            groups = np.moveaxis(self.ranks, place, -1).reshape(-1, self.sizes[axis])
            if self.sizes[axis] > 1:
                lines.append(f"{axis}: ranks {' '.join(map(str, groups.tolist()))} {about.says}")
        return "\n".join(lines)

    def _check(self, axes: tuple[str, ...]) -> None:
        unknown = set(axes) - set(AXES)
        if unknown:
            raise UserError(f"unknown mesh axis {', '.join(sorted(unknown))}; there are {', '.join(AXES)}")
