"""Where a parameter lies in the logical model, and which ranks of the mesh hold it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..errors import check_whole
from ..sharding import shard_of

Coordinates = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Replicate:
    """Along a mesh axis, each of these coordinates holds the same slice."""

    at: tuple[int, ...]


@dataclass(frozen=True)
class Shard:
    """Along a mesh axis, each coordinate holds a shard of dimension `dim`, cut at multiples of `unit` elements."""

    dim: int
    unit: int = 1


@dataclass(frozen=True)
class Placement:
    """Where a parameter lies in the logical model, in the terms of PyTorch's DTensor.

    Initialization, gradient reduction, norms, gathering and checkpoints read this and nothing else.
    axes: mesh axis -> Replicate or Shard.
    partial: mesh axis -> the coordinates over which the gradient is a partial sum and must be reduced.
    """

    path: str
    shape: tuple[int, ...]  # of the logical parameter
    index: tuple[slice, ...]  # the slice held here
    axes: Mapping[str, Replicate | Shard] = field(default_factory=dict)
    partial: Coordinates = field(default_factory=dict)

    @property
    def replicas(self) -> Coordinates:
        """Mesh axis -> the coordinates that hold this same slice."""
        return {axis: how.at for axis, how in self.axes.items() if isinstance(how, Replicate)}

    @property
    def local(self) -> tuple[int, ...]:
        """Shape of the slice held on this rank."""
        return tuple(run.stop - run.start for run in self.index)

    def split(self, dim: int, lo: int, hi: int) -> "Placement":
        """Return the placement restricted to lo..hi of dimension dim, counted within the slice held here.

        Raise UserError or ValueError if the dimension or the range does not exist.
        """
        check_whole("dim", dim, 0, len(self.index) - 1)
        check_whole("lo", lo)
        check_whole("hi", hi)
        if not 0 <= lo <= hi <= self.local[dim]:
            raise ValueError(f"{self.path}: cannot hold {lo}..{hi} of dimension {dim}, of length {self.local[dim]}")
        start = self.index[dim].start
        index = (*self.index[:dim], slice(start + lo, start + hi), *self.index[dim + 1 :])
        return replace(self, index=index)

    def shard(self, axis: str, how: Shard, n: int, i: int) -> "Placement":
        """Return the placement of the i-th of n shards along this mesh axis."""
        units = shard_of(self.local[how.dim] // how.unit, n, i)
        shard = self.split(how.dim, units.start * how.unit, units.stop * how.unit)
        return replace(shard, axes={**self.axes, axis: how})

    def held_at(self, axis: str, coordinates: tuple[int, ...]) -> "Placement":
        """Return the placement replicated at these coordinates, each with the full gradient (tensor parallel)."""
        return replace(self, axes={**self.axes, axis: Replicate(coordinates)})

    def replicate(self, axis: str, coordinates: tuple[int, ...]) -> "Placement":
        """Return the placement replicated at these coordinates, each with part of the gradient (data parallel)."""
        return replace(self.held_at(axis, coordinates), partial={**self.partial, axis: coordinates})
