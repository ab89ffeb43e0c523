"""Regions of a logical tensor, and where two of them overlap: how a checkpoint of one mesh is read on another.

A rank holds a slice of a tensor (tensor parallel), flattened, and of that a run of elements (a ZeRO shard):

    logical (3, 4)     rank's slice: columns 1 to 2     flattened        elements 1 to 3 of it
    0  1  2  3         .  1  2  .
    4  5  6  7         .  5  6  .                       1 2 5 6 9 10     2 5 6
    8  9 10 11         .  9 10  .

In the flattened logical tensor, a region is a list of intervals in increasing order: [2, 3) and [5, 7) here. Two
regions overlap where their intervals do, whatever mesh each comes from.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..sharding import runs_of


class Region(NamedTuple):
    """Elements `run` of the slice `held` of a logical tensor, flattened. An array of the region has one axis."""

    held: tuple[slice, ...]
    run: slice

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.run.stop - self.run.start

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in which the region is stored: of the slice, if all of it is in the region."""
        local = tuple(place.stop - place.start for place in self.held)
        return local if self.size == math.prod(local) else (self.size,)

    def intervals(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the starts and stops (n) of its intervals in the flattened tensor, and each one's place in an array.

        shape: of the logical tensor.
        """
        starts, length = runs_of(shape, self.held)
        if not self.size:
            return (np.zeros(0, np.int64),) * 3
        first, last = self.run.start // length, -(-self.run.stop // length)
        places = np.arange(first, last) * length - self.run.start
        starts = starts[first:last]
        cut_off = np.maximum(-places, 0)  # the first interval may begin before the region
        stops = np.minimum(starts + length, starts + self.size - places)
        return starts + cut_off, stops, places + cut_off


def whole(shape: tuple[int, ...]) -> Region:
    """Return the region that is all of a tensor of this shape."""
    return Region(tuple(slice(0, n) for n in shape), slice(0, math.prod(shape)))


class Overlap(NamedTuple):
    """`size` elements that two regions share: from `source` in an array of the one, from `target` in the other's."""

    source: int
    target: int
    size: int


def overlaps(source: Region, target: Region, shape: tuple[int, ...]) -> Iterator[Overlap]:
    """Yield the overlaps of two regions of a tensor of this shape, in order; neighbors are joined."""
    starts, stops, places = source.intervals(shape)
    target_starts, target_stops, target_places = target.intervals(shape)
    first = np.searchsorted(stops, target_starts, "right")
    counts = np.maximum(np.searchsorted(starts, target_stops, "left") - first, 0)
    there = np.repeat(np.arange(len(counts)), counts)  # for each overlap, its interval in the target
    here = np.arange(len(there)) + np.repeat(first - np.cumsum(counts) + counts, counts)  # and in the source
    lo = np.maximum(starts[here], target_starts[there])
    sizes = np.minimum(stops[here], target_stops[there]) - lo
    froms, tos = places[here] + lo - starts[here], target_places[there] + lo - target_starts[there]
    new = np.ones(len(sizes), bool)
    new[1:] = (froms[1:] != froms[:-1] + sizes[:-1]) | (tos[1:] != tos[:-1] + sizes[:-1])
    heads = np.flatnonzero(new)
    joined = np.add.reduceat(sizes, heads) if len(heads) else sizes
    yield from map(Overlap, froms[heads].tolist(), tos[heads].tolist(), joined.tolist())


def cover(regions: list[Region], shape: tuple[int, ...]) -> bool:
    """Return whether the regions hold each element of a tensor of this shape exactly once."""
    found = [region.intervals(shape)[:2] for region in regions if region.size]
    if not found:
        return math.prod(shape) == 0
    starts, stops = (np.concatenate(ends) for ends in zip(*found, strict=True))
    order = np.argsort(starts, kind="stable")
    borders = [*starts[order].tolist(), math.prod(shape)]
    return [0, *stops[order].tolist()] == borders
