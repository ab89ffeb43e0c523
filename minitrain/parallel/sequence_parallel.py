"""Sequence parallel: what tensor parallel leaves whole is divided along time.

Between two matrices that are cut, norms, dropout and the residual path work on each position by itself. So each rank
can do its share of the positions, and where tensor parallel all-reduces, the two halves of an all-reduce stand apart:

    tensor     y_r = h_r B_r --- all-reduce ---> y (B, T, D) -> + x, dropout, norm on every rank --------> x A_r
    sequence   y_r = h_r B_r - reduce-scatter -> y (B, T/t, D) -> + x, dropout, norm of a share - all-gather -> x A_r

Attention needs all positions, and has them: time is divided on the residual path only. Norms, biases after a sum and
positions now see a share of the tokens, so their gradients are partial sums over the tp ranks.

A matrix keeps only the share of its input for backward, and gathers it there again for its own gradient. So a block
sends, in units of (t-1)/t x B T D elements: forward 2 all-gathers and 2 reduce-scatters, backward the same and 2
all-gathers of kept shares: 10, where tensor parallel sends 4 all-reduces of 2 each, 8: a quarter more, for activations
of (a + b)/t instead of a + b/t. The embedding sends 1 forward and 1 backward, and so does the head.

Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", arXiv:2205.05198, section 4.2.2.
"""

from dataclasses import replace

from .. import fused
from ..autograd import Tensor
from ..backend import Array
from ..comm.communicator import Communicator, Tag
from ..data.batch import Batch
from ..errors import UserError
from ..nn import Parameter
from ..shares import share
from .collective_ops import all_gather, gather_from, gathered, reduce_scatter, scattered, split_to
from .tensor_parallel import BLOCK, TIME, TensorIO


class SequenceIO(TensorIO):
    """Outside the divided layers, each rank has a share of the time."""

    sequence = True
    T = 0  # positions of the batch at work

    def unit(self, batch: Batch) -> Batch:
        """The residual path has a share of the time; attention has all of it."""
        time, where = batch.where.time, batch.where
        if (where.T == 1 and batch.inputs.ndim < 2) or batch.inputs.dtype.kind not in "iu":
            raise UserError(
                f"sequence parallel divides the time of a batch of ids (B, T), and the inputs have shape "
                f"{batch.inputs.shape}, {batch.inputs.dtype}: give tensor parallel alone, sp=False"
            )
        self.T = time.stop - time.start
        own = self.own_time()
        mine = slice(time.start + own.start, time.start + own.stop)
        return super().unit(replace(batch, where=replace(where, share=mine)))

    def own_time(self) -> slice:
        """This rank's share of the T positions."""
        return share(self.T, self.group.size, self.group.rank)

    def copied(self, x: Tensor, tag: Tag) -> Tensor:
        """x (B, T/t, ...) -> (B, T, ...)."""
        return all_gather(self.shared(x), self.group, tag, TIME, self.T)

    def leave(self, y: Tensor, tag: Tag = BLOCK, time: int = TIME) -> Tensor:
        """The sum over ranks of y (B, T, ...) -> (B, T/t, ...)."""
        return reduce_scatter(y, self.group, tag, time)

    def shared(self, x: Tensor) -> Tensor:
        """x (B, T/t, ...). Raise ValueError for anything else."""
        own = self.own_time()
        if x.ndim < 3 or x.shape[TIME] != own.stop - own.start:
            raise ValueError(
                f"x {x.shape} enters a divided layer, and is no share of the {self.T} positions, as sequence parallel "
                "has them there: what was made by plan.gather is whole (plan.everywhere makes shares again), and so is "
                "that of plan.enter.\nOr is it a mean over time, or a position picked out: plan.everywhere(the whole "
                "module that makes it)"
            )
        return x

    def column(self, x: Tensor, weight: Parameter, bias: Parameter | None, gelu: bool) -> Tensor:
        """The share is what is kept for backward, where it is gathered once more."""
        return fused.linear(self.shared(x), weight, bias, gelu, Shared(self.group, self.T))

    def own_ids(self, ids: Array) -> Array:
        """ids (..., T) -> (..., T/t)."""
        return ids[..., share(ids.shape[-1], self.group.size, self.group.rank)]

    def all_of(self, batch: Batch) -> Batch:
        return replace(batch, where=replace(batch.where, share=None))

    def whole(self, x: Tensor) -> Tensor:
        """x (B, T/t, ...) -> (B, T, ...)."""
        return gather_from(self.shared(x), self.group, BLOCK, TIME, self.T)

    def own(self, y: Tensor, time: int = TIME) -> Tensor:
        """y (B, T, ...) -> (B, T/t, ...)."""
        if y.ndim <= time:
            raise UserError(
                f"plan.everywhere is for a layer that others follow, and this one makes {y.shape}, which has no time "
                "to divide.\nIf it makes the loss: plan.gather(it)"
            )
        return split_to(y, self.group, BLOCK, time)


class Shared(fused.Spread):
    """The input of a matrix, held as a share of the time and gathered whenever it is multiplied."""

    def __init__(self, group: Communicator, T: int) -> None:
        self.group, self.T = group, T

    def collect(self, x: Array) -> Array:
        return gathered(x, self.T, self.group, BLOCK, TIME)

    def deliver(self, gx: Array) -> Array:
        return scattered(gx, self.group, BLOCK, TIME)
