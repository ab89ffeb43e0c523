"""Collectives over the pieces of a parameter, for optimizers that need norms or whole matrices.

    rank 0's shard | rank 1's shard       of a bucket, under ZeRO
    [ W1      ][b1]|[ W2                  rank 0 updates W1, b1 and a piece of W2, rank 1 the rest of it

An elementwise rule updates pieces cut at any element and needs nothing else. A rule that needs the norm of a parameter
sums squares over its pieces, with the functions below. A rule that needs whole matrices gets pieces that are whole
parameters (`owners_of` in buckets.py), which tensor parallel may have divided further.
"""

import numpy as np

from ..backend import Array, to_device, to_host
from ..comm.communicator import Communicator, Tag
from ..comm.mesh import Mesh
from ..nn import Placement, Shard
from ..optim import Totals
from .collective_ops import gathered

NORMS = ("tp", "norms")


def over_matrices(totals: Totals, mesh: Mesh) -> Totals:
    """Return the totals summed over the ranks that hold the other parts of divided parameters.

    Each rank sends 16 bytes per divided parameter.
    """
    if mesh.parts("matrices") == 1:
        return totals
    divided = sorted((p for p in totals if p.placement.local != p.placement.shape), key=lambda p: p.placement.path)
    if divided:
        sums = in_order(np.array([totals[p] for p in divided]), mesh.over("matrices"), NORMS)
        totals |= dict(zip(divided, sums, strict=True))
    return totals


def from_all(numbers: np.ndarray, group: Communicator, tag: Tag) -> np.ndarray:
    """Return every rank's `numbers`, (ranks, *numbers.shape). For small arrays: each rank sends its array to all."""
    every = np.zeros((group.size, *numbers.shape))
    every[group.rank] = numbers
    device = to_device(every)
    group.all_gather(device, tag)
    return to_host(device)


def in_order(numbers: np.ndarray, group: Communicator, tag: Tag) -> np.ndarray:
    """Return the sum over ranks, added in rank order, so that every rank gets the same bits."""
    total = np.zeros(numbers.shape)
    for part in from_all(numbers, group, tag):
        total += part
    return total


def joined(where: Placement, x: Array, mesh: Mesh) -> Array:
    """Return the logical array, (where.shape), from every rank's slice x, (where.local). All of these ranks call it."""
    for axis, how in where.axes.items():
        if isinstance(how, Shard):
            before, after = x.shape[: how.dim], x.shape[how.dim + 1 :]
            rows = x.reshape(*before, x.shape[how.dim] // how.unit, how.unit, *after)
            n = where.shape[how.dim] // how.unit
            x = gathered(rows, n, mesh.group(axis), (axis, "matrices"), how.dim).reshape(*before, n * how.unit, *after)
    return x
