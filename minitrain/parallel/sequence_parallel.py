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
from ..backend import Array, xp
from ..comm.communicator import Communicator
from ..data.batch import Batch
from ..models import Embed
from ..nn import Block, like
from ..shares import share
from .collective_ops import all_gather, gathered, reduce_scatter, scattered
from .tensor_parallel import (
    BLOCK,
    EMBEDDING,
    HEAD,
    TENSOR,
    ColumnLinear,
    HeadsLinear,
    Placed,
    RowLinear,
    Table,
    TensorAttention,
    TensorFeedForward,
    VocabularyClassifier,
    VocabularyEmbedding,
)

TIME = 1  # the axis of x (B, T, D)


def own_time(batch: Batch, group: Communicator) -> Batch:
    """The same batch, on the residual path: this rank's share of the time."""
    start, T = batch.where.time.start, length(batch)
    own = share(T, group.size, group.rank)
    return replace(batch, where=replace(batch.where, time=slice(start + own.start, start + own.stop)))


def length(batch: Batch) -> int:
    """Positions of the batch."""
    return batch.where.time.stop - batch.where.time.start


class Shared(fused.Spread):
    """The input of a matrix, held as a share of the time and gathered whenever it is multiplied."""

    def __init__(self, group: Communicator, T: int) -> None:
        self.group, self.T = group, T

    def collect(self, x: Array) -> Array:
        return gathered(x, self.T, self.group, BLOCK, TIME)

    def deliver(self, gx: Array) -> Array:
        return scattered(gx, self.group, BLOCK, TIME)


class SequenceColumn(ColumnLinear):
    """Column parallel on an input that is divided along time."""

    def over(self, x: Tensor, batch: Batch, gelu: bool = False) -> Tensor:
        """x (B, T/t, I) -> (B, T, *O), this rank's columns."""
        shared = Shared(self.group, length(batch))
        return fused.linear(self.at("linear", x), self.weight, self.bias, gelu, shared)


class SequenceHeads(SequenceColumn, HeadsLinear):
    """Columns by heads."""


class SequenceRow(RowLinear):
    """Row parallel with an output that is divided along time."""

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        """x (B, T, I), this rank's columns -> (B, T/t, O)."""
        y = fused.linear(self.at("linear", x), self.weight)
        return fused.add_bias(reduce_scatter(y, self.group, BLOCK, TIME), self.bias)


class SequenceAttention(TensorAttention):
    """All positions, of this rank's heads."""

    kinds = (SequenceHeads, SequenceRow)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        """x (B, T/t, D) -> (B, T/t, D)."""
        qkv: SequenceHeads = self.qkv  # type: ignore[assignment]
        return self.proj(fused.causal_attention(self.at("attention", qkv.over(x, batch)), batch.where.time.start))


class SequenceFeedForward(TensorFeedForward):
    """All positions, of this rank's columns."""

    kinds = (SequenceColumn, SequenceRow)

    def over(self, x: Tensor, batch: Batch) -> Tensor:
        """x (B, T/t, D) -> (B, T/t, D)."""
        up: SequenceColumn = self.up  # type: ignore[assignment]
        return self.down(up.over(x, batch, gelu=True))


class SequenceBlock(Placed, Block):
    """The residual path has a share of the time; attention and the feed-forward layer pass it in and out."""

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        """x (B, T/t, D) -> (B, T/t, D)."""
        own = own_time(batch, self.group)
        mlp: SequenceFeedForward = self.mlp  # type: ignore[assignment]
        x = self.at("layer", x)
        x = x + like(x, self.drop1(self.attn(self.norm1(x), batch), own))
        return x + like(x, self.drop2(mlp.over(self.norm2(x), batch), own))


class SequenceVocabulary(VocabularyEmbedding):
    """Rows of the table; the sum over ranks leaves each its share of the time."""

    def __call__(self, ids: Array) -> Tensor:
        """ids (B, T) -> (B, T/t, D)."""
        return reduce_scatter(self.partial(ids), self.group, EMBEDDING, TIME)


class SequenceEmbed(Placed, Embed):
    """Tokens and positions of a share of the time."""

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        """x is nothing; batch.inputs (B, T) -> (B, T/t, D)."""
        own = own_time(batch, self.group)
        time = xp.arange(own.where.time.start, own.where.time.stop)
        x = self.at("layer", self.tokens(batch.inputs)) + self.at("layer", self.positions(time))
        return self.drop(x, own)


class SequenceClassifier(VocabularyClassifier):
    """Every rank needs every position for its part of the vocabulary."""

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        """x (B, T/t, D) -> the loss, or the whole logits (B, T, V) of a batch without labels."""
        return self.judge(all_gather(self.at("linear", x), self.group, HEAD, TIME, length(batch)), batch)


SEQUENCE: Table = {
    r"embed": SequenceEmbed,
    r"blocks\.\d+": SequenceBlock,
    **TENSOR,
    r"embed\.tokens": SequenceVocabulary,
    r"blocks\.\d+\.attn": SequenceAttention,
    r"blocks\.\d+\.mlp": SequenceFeedForward,
    r"head\.classifier": SequenceClassifier,
}
