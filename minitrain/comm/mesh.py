"""The mesh: the world's ranks as an array with named axes.

    Mesh(world, dp=2, tp=2).ranks          tp ->        tp is innermost: it communicates most
        [[0, 1],                        dp  0 1
         [2, 3]]                         |  2 3

The group of an axis is a slice along it: rank 2's dp group is the column [0, 2], its tp group the row [2, 3]. Tensor
parallelism communicates in every layer, a pipeline at stage boundaries, data parallelism once per update. The innermost
axis therefore gets adjacent ranks, usually on one machine.

AXES defines what each axis divides. It determines which part of the batch and of the model a rank holds, and over which
ranks gradients are summed. Code asks the mesh for what is divided ("samples"), not for an axis by name ("dp").
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import UserError, check_whole
from .communicator import Communicator


@dataclass(frozen=True)
class Axis:
    """divides: "samples" of the batch, "layers" of the model, or "matrices". says: what its ranks do, for `table`."""

    divides: str
    says: str


AXES = {  # outermost first
    "dp": Axis("samples", "split the batch"),
    "pp": Axis("layers", "hold pipeline stages"),
    "tp": Axis("matrices", "split every matrix"),
}


class Mesh:
    """The world's ranks as a (dp, pp, tp) array; sizes default to 1.

    Raise UserError if the product of the sizes is not the number of ranks, and in every method for an unknown axis. The
    first call that returns a group creates it, for all meshes of the world: its members must make that call together.
    """

    def __init__(self, world: Communicator, **sizes: int) -> None:
        self._check(tuple(sizes))
        for axis, n in sizes.items():
            check_whole(axis, n, 1)
        self.world = world
        self.sizes = {axis: sizes.get(axis, 1) for axis in AXES}
        product = math.prod(self.sizes.values())
        if product != world.size:
            asked = " x ".join(f"{axis} {n}" for axis, n in self.sizes.items() if axis in sizes)
            raise UserError(f"{asked} makes {product} ranks, but there are {world.size}: run mpirun -n {product}")
        self.ranks = np.arange(world.size).reshape(list(self.sizes.values()))
        here = np.argwhere(self.ranks == world.rank)[0].tolist()
        self.coordinates = dict(zip(AXES, here, strict=True))

    # By what is divided -----------------------------------------------------------------------------------------------

    @staticmethod
    def along(*what: str) -> tuple[str, ...]:
        """Return the axes that divide any of these: "samples", "layers", "matrices"."""
        return tuple(name for name, axis in AXES.items() if axis.divides in what)

    def parts(self, *what: str) -> int:
        """Return the number of parts these are divided into, the product over their axes."""
        return math.prod(self.sizes[axis] for axis in self.along(*what))

    def part(self, *what: str) -> int:
        """Return the index of this rank's part, from 0 to `parts` - 1."""
        number = 0
        for axis in self.along(*what):
            number = number * self.sizes[axis] + self.coordinates[axis]
        return number

    def over(self, *what: str) -> Communicator:
        """Return the group of ranks that hold the other parts of these, and the same part of everything else."""
        return self.group(*self.along(*what))

    # By axis ----------------------------------------------------------------------------------------------------------

    def group(self, *axes: str) -> Communicator:
        """Return the group of ranks that differ from this one only along these axes."""
        self._check(axes)
        return self.product({axis: tuple(range(self.sizes[axis])) for axis in axes})

    def product(self, coordinates: Mapping[str, tuple[int, ...]]) -> Communicator:
        """Return the group of ranks with any of these coordinates along these axes, and this rank's along others."""
        self._check(tuple(coordinates))
        places = [list(coordinates.get(axis, (self.coordinates[axis],))) for axis in AXES]
        members = tuple(self.ranks[np.ix_(*places)].reshape(-1).tolist())
        if len(members) == self.world.size:
            return self.world
        if members not in self.world.groups:
            self.world.groups[members] = self.world.subgroup(members)
        return self.world.groups[members]

    def table(self) -> str:
        """Return a table of the groups, one line per axis."""
        lines = []
        for place, (axis, about) in enumerate(AXES.items()):
            groups = np.moveaxis(self.ranks, place, -1).reshape(-1, self.sizes[axis])
            if self.sizes[axis] > 1:
                lines.append(f"{axis}: ranks {' '.join(map(str, groups.tolist()))} {about.says}")
        return "\n".join(lines)

    def _check(self, axes: tuple[str, ...]) -> None:
        unknown = set(axes) - set(AXES)
        if unknown:
            raise UserError(f"unknown mesh axis {', '.join(sorted(unknown))}; allowed: {', '.join(AXES)}")
