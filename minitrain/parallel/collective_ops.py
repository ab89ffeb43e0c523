"""Differentiable collectives, in conjugate pairs: each operation of a pair is the other's backward.

    operation        forward                              backward
    copy_to          x, which all ranks hold               all-reduce of g       f in Megatron-LM
    reduce_from      all-reduce of the partial sums x       g                     g in Megatron-LM
    split_to         own shard of x                         all-gather of g
    gather_from      all-gather of the shards               own shard of g
    all_gather       all-gather of the shards               reduce-scatter of g
    reduce_scatter   own shard of the sum of the x          all-gather of g

The last two pairs differ in what follows them. After gather_from, all ranks do the same work and have the whole
gradient; after all_gather, each rank does a different part of the work, so g is a partial sum. Shards are consecutive
slices of an axis, uneven if its length is not a multiple of N (sharding.py).

Cost on N ranks for an array of M bytes, per rank of a ring: 2 (N-1)/N M for an all-reduce, half that for the others.
Shoeybi et al., "Megatron-LM", arXiv:1909.08053, section 3; Korthikanti et al., arXiv:2205.05198, section 4.2.
"""

from ..autograd import apply
from ..backend import Array, xp
from ..comm.communicator import Communicator, Tag
from ..observe import ledger
from ..sharding import shard_of
from ..tensor import Tensor, operation


@operation
def copy_to(x: Tensor, group: Communicator, tag: Tag) -> Tensor:
    """y = x, the same on all ranks; gx = sum over ranks of g, because each rank uses y for a part of the work."""
    return apply(x.data, (x,), lambda g: (summed(g, group, tag),))


@operation
def reduce_from(x: Tensor, group: Communicator, tag: Tag) -> Tensor:
    """y = sum over ranks of x; gx = g, which is the same on all ranks."""
    return apply(summed(x.data, group, tag), (x,), lambda g: (g,))


@operation
def split_to(x: Tensor, group: Communicator, tag: Tag, axis: int) -> Tensor:
    """y = this rank's shard of x along `axis`; gx = the shards g of all ranks, concatenated."""
    n = x.shape[axis]
    return apply(own(x.data, group, axis), (x,), lambda g: (gathered(g, n, group, tag, axis),))


@operation
def gather_from(x: Tensor, group: Communicator, tag: Tag, axis: int, n: int) -> Tensor:
    """y = the shards x of all ranks, concatenated along `axis` to length n; gx = this rank's shard of g."""
    return apply(gathered(x.data, n, group, tag, axis), (x,), lambda g: (own(g, group, axis),))


@operation
def all_gather(x: Tensor, group: Communicator, tag: Tag, axis: int, n: int) -> Tensor:
    """y = the shards x of all ranks, concatenated along `axis` to length n; gx = this rank's shard of the sum of g."""
    return apply(gathered(x.data, n, group, tag, axis), (x,), lambda g: (scattered(g, group, tag, axis),))


@operation
def reduce_scatter(x: Tensor, group: Communicator, tag: Tag, axis: int) -> Tensor:
    """y = this rank's shard along `axis` of the sum over ranks of x; gx = the shards g, concatenated."""
    n = x.shape[axis]
    return apply(scattered(x.data, group, tag, axis), (x,), lambda g: (gathered(g, n, group, tag, axis),))


# On plain arrays ------------------------------------------------------------------------------------------------------


def summed(x: Array, group: Communicator, tag: Tag) -> Array:
    """Return a new array, the sum of x over ranks."""
    y = xp.array(x, order="C")
    ledger.hold(y, "buffers", "all-reduce")
    group.all_reduce(y, tag)
    return y


def own(x: Array, group: Communicator, axis: int) -> Array:
    """Return this rank's shard of x along `axis`, contiguous."""
    place = shard_of(x.shape[axis], group.size, group.rank)
    return xp.ascontiguousarray(x[(slice(None),) * axis + (place,)])


def gathered(x: Array, n: int, group: Communicator, tag: Tag, axis: int) -> Array:
    """Concatenate the shards of all ranks along `axis`: (..., own shard, ...) -> (..., n, ...)."""
    rows = x.swapaxes(0, axis)
    whole = xp.empty((n, *rows.shape[1:]), x.dtype)
    ledger.hold(whole, "buffers", "all-gather")
    whole[shard_of(n, group.size, group.rank)] = rows
    group.all_gather(whole, tag)
    return xp.ascontiguousarray(whole.swapaxes(0, axis))


def scattered(x: Array, group: Communicator, tag: Tag, axis: int) -> Array:
    """Return this rank's shard along `axis` of the sum over ranks: (..., n, ...) -> (..., own shard, ...)."""
    rows = xp.array(x.swapaxes(0, axis), order="C")
    ledger.hold(rows, "buffers", "reduce-scatter")
    return xp.ascontiguousarray(group.reduce_scatter(rows, tag).swapaxes(0, axis))
