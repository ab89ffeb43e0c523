"""The mesh: the world's ranks as an array with named axes.

    Mesh(world, dp=2, tp=2).ranks          tp ->        tp is innermost: its groups talk most and get neighbours
        [[0, 1],                        dp  0 1
         [2, 3]]                         |  2 3

The group of an axis is a slice along it: rank 2's dp group is its column [0, 2], its tp group the row [2, 3]. Tensor
parallel talks in every layer, a pipeline at its stages' borders, data parallel once an update: so the innermost axis
gets the ranks that stand next to each other, in one machine.
"""

import math
from collections.abc import Mapping

import numpy as np

from ..errors import UserError, check_whole
from .communicator import Communicator

AXES = ("dp", "pp", "tp")  # outermost first


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
        when = {"dp": "share the batch", "pp": "have stages of the layers", "tp": "share every matrix"}
        lines = []
        for place, axis in enumerate(AXES):
            groups = np.moveaxis(self.ranks, place, -1).reshape(-1, self.sizes[axis])
            if self.sizes[axis] > 1:
                lines.append(f"{axis}: ranks {' '.join(map(str, groups.tolist()))} {when[axis]}")
        return "\n".join(lines)

    def _check(self, axes: tuple[str, ...]) -> None:
        unknown = set(axes) - set(AXES)
        if unknown:
            raise UserError(f"unknown mesh axis {', '.join(sorted(unknown))}; there are {', '.join(AXES)}")
