"""What a rank writes into a checkpoint: its share of the parameters and of the optimizer's state, each element once.

Replicas of a parameter are divided among the ranks that have them, as ZeRO would divide them, in every strategy. So all
ranks write equally much, and nothing is gathered. Of P parameters in fp32, with k arrays of optimizer state, each of N
ranks writes

    (4 + 4 k) P / N bytes                       12 P / N with Adam, 8 P / N with momentum
    (2 + 4 + 4 k) P / N bytes                   with half weights and their float32 masters

plus a header per file. With uneven shards, a rank writes exactly its own. Along tp, a parameter that is held whole and
has the same gradient on every rank is written by the first of them.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from ..backend import Array
from ..errors import UserError
from ..nn import Parameter
from ..optim import Optimizer
from ..parallel.buckets import Bucket
from ..parallel.reducer import Reducer, require
from .regions import Region

MODEL, OPTIMIZER = "model/", "optimizer/"  # how the names of tensors begin


class OwnedRegion(NamedTuple):
    """A region of a logical tensor, and the array (n) that holds it on this rank."""

    name: str
    shape: tuple[int, ...]  # of the logical tensor
    region: Region
    array: Array


def owned_regions(reducer: Reducer, optimizer: Optimizer) -> Iterator[OwnedRegion]:
    """Yield what this rank writes, as views of the arrays that training uses.

    Raise UserError for an optimizer with state that has no name.
    """
    if type(optimizer).state_dict is not Optimizer.state_dict:
        raise UserError(
            f"{type(optimizer).__name__} has its own state_dict, which a checkpoint does not call: keep its state in "
            "the arrays that `states` names"
        )
    for bucket in filter(partial(writes, reducer), reducer.buckets):
        shard = require(bucket.data)[bucket.own_shard] if bucket.shard is None else bucket.shard
        for p, run, place in bucket.part(bucket.group.rank):
            where = p.placement
            yield OwnedRegion(MODEL + where.path, where.shape, Region(where.index, run), shard[place])
    for name, (p, held, _), array in optimizer.named():
        mine, where = own_run(reducer, p), p.placement
        if mine is not None:
            part = array[mine.start - held.start : mine.stop - held.start]
            yield OwnedRegion(OPTIMIZER + name, where.shape, Region(where.index, mine), part)


def own_run(reducer: Reducer, p: Parameter) -> slice | None:
    """Return the elements of p's slice here that this rank writes; None if it writes none."""
    bucket = p.bucket
    piece = bucket.piece_in(p, bucket.group.rank) if bucket is not None and writes(reducer, bucket) else None
    return None if piece is None else piece.run


def writes(reducer: Reducer, bucket: Bucket) -> bool:
    """Return whether this rank writes its shard of a bucket: its group has the first of the other replicas."""
    others = {axis: at for axis, at in bucket.replicas.items() if axis not in bucket.partial}
    return all(reducer.mesh.coordinates[axis] == at[0] for axis, at in others.items())
