"""Sequence parallel: the activations that tensor parallel keeps whole are divided along time.

Between divided layers, norms, dropout and the residual path treat each position independently. So each rank can process
only its shard of the positions, and the all-reduce of tensor parallel splits into its two halves:

    tensor     y_r = h_r B_r --- all-reduce ---> y (B, T, D) -> + x, dropout, norm on every rank --------> x A_r
    sequence   y_r = h_r B_r - reduce-scatter -> y (B, T/t, D) -> + x, dropout, norm of a shard - all-gather -> x A_r

Attention still sees all positions: time is divided only on the residual path. Norms, biases after a sum and position
tables see a shard of the tokens, so their gradients are partial sums over the tp ranks.

A column layer keeps only its input's shard, and backward gathers it again for the weight gradient. So a block
sends, in units of (t-1)/t x B T D elements: forward 2 all-gathers and 2 reduce-scatters, backward the same plus 2
all-gathers of kept shards. That is 10, against 8 for tensor parallel (4 all-reduces of 2 each): a quarter more, for
activations of (a + b)/t instead of a + b/t (see tensor_parallel.py). The embedding sends 1 forward and 1 backward, and
so does the head.

Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", arXiv:2205.05198, section 4.2.2.
"""

from dataclasses import replace

from .. import fused
from ..backend import Array
from ..comm.communicator import Communicator, Tag
from ..data.batch import Batch
from ..errors import UserError
from ..nn import Parameter
from ..sharding import shard_of
from ..tensor import Tensor
from .collective_ops import all_gather, gather_from, gathered, reduce_scatter, scattered, split_to
from .tensor_parallel import BLOCK, TIME, TensorIO


class SequenceIO(TensorIO):
    """Outside the divided layers, each rank has a shard of the sequence."""

    sequence = True
    T = 0  # positions of the current batch

    def unit(self, batch: Batch) -> Batch:
        """Return the batch with this rank's shard of its time. Raise UserError unless its inputs are ids (B, T)."""
        time, where = batch.where.time, batch.where
        if (where.T == 1 and batch.inputs.ndim < 2) or batch.inputs.dtype.kind not in "iu":
            raise UserError(
                f"sequence parallel divides a batch of ids (B, T) along time, but the inputs have shape "
                f"{batch.inputs.shape}, {batch.inputs.dtype}: use tensor parallel alone, sp=False"
            )
        self.T = time.stop - time.start
        place = self.own_time()
        time_slice = slice(time.start + place.start, time.start + place.stop)
        return super().unit(replace(batch, where=replace(where, shard_of=time_slice)))

    def own_time(self) -> slice:
        """Return this rank's shard of the T positions."""
        return shard_of(self.T, self.group.size, self.group.rank)

    def copied(self, x: Tensor, tag: Tag) -> Tensor:
        """x (B, T/t, ...) -> (B, T, ...)."""
        return all_gather(self.shared(x), self.group, tag, TIME, self.T)

    def leave(self, y: Tensor, tag: Tag = BLOCK, time: int = TIME) -> Tensor:
        """y (B, T, ...) -> (B, T/t, ...): this rank's shard of the sum over ranks."""
        return reduce_scatter(y, self.group, tag, time)

    def shared(self, x: Tensor) -> Tensor:
        """Return x (B, T/t, ...). Raise ValueError for any other shape."""
        place = self.own_time()
        if x.ndim < 3 or x.shape[TIME] != place.stop - place.start:
            raise ValueError(
                f"x {x.shape} enters a divided layer, but is not this rank's shard of the {self.T} positions, which "
                "sequence parallel needs there. The outputs of plan.gather and plan.enter are whole; plan.everywhere "
                "returns shards.\nIf x is a mean over time, or one selected position, use "
                "plan.everywhere for the module that computes it"
            )
        return x

    def column(self, x: Tensor, weight: Parameter, bias: Parameter | None, gelu: bool) -> Tensor:
        """x (B, T/t, I) -> (B, T, *O), this rank's columns. Backward keeps only the shard and gathers it again."""
        return fused.linear(self.shared(x), weight, bias, gelu, Shared(self.group, self.T))

    def own_ids(self, ids: Array) -> Array:
        """ids (..., T) -> (..., T/t)."""
        return ids[..., shard_of(ids.shape[-1], self.group.size, self.group.rank)]

    def all_of(self, batch: Batch) -> Batch:
        """Return the batch with all T positions."""
        return replace(batch, where=replace(batch.where, shard_of=None))

    def whole(self, x: Tensor) -> Tensor:
        """x (B, T/t, ...) -> (B, T, ...)."""
        return gather_from(self.shared(x), self.group, BLOCK, TIME, self.T)

    def own(self, y: Tensor, time: int = TIME) -> Tensor:
        """y (B, T, ...) -> (B, T/t, ...). Raise UserError for a y without a time axis."""
        if y.ndim <= time:
            raise UserError(
                f"plan.everywhere is for a layer that others follow, but this one returns {y.shape}, without a time "
                "axis to divide.\nIf it computes the loss, use plan.gather"
            )
        return split_to(y, self.group, BLOCK, time)


class Shared(fused.Spread):
    """The input of a matrix, held as a shard of the sequence and gathered for each multiplication."""

    def __init__(self, group: Communicator, T: int) -> None:
        self.group, self.T = group, T

    def collect(self, x: Array) -> Array:
        """x (B, T/t, ...) -> (B, T, ...), an all-gather."""
        return gathered(x, self.T, self.group, BLOCK, TIME)

    def deliver(self, gx: Array) -> Array:
        """gx (B, T, ...) -> (B, T/t, ...), a reduce-scatter."""
        return scattered(gx, self.group, BLOCK, TIME)
