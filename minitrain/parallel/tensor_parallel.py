"""Tensor parallel: every rank has a part of each matrix, and the whole batch.

    column parallel: columns of A and their outputs        row parallel: rows of B and their inputs

                      A = [A_0 | A_1]                                  B = [B_0]
                                                                           [B_1]
    x --copy--> x A_0 --gelu--> h_0 --> h_0 B_0 --+
          \\-> x A_1 --gelu--> h_1 --> h_1 B_1 --+-- all-reduce --> y = h_0 B_0 + h_1 B_1, and then + b

The order matters: after the columns each rank has whole elements of h, so that GELU can be applied to them; after the
rows it would have parts of sums, and gelu(a + b) is not gelu(a) + gelu(b). Attention is cut by heads: qkv by columns,
proj by rows. The token table is cut by rows, the vocabulary, and with it the logits: in training no rank ever has a
whole row of them. Norms, biases after an all-reduce and positions are held by all ranks; the gradients that reach them
are whole.

Bytes, per rank of a ring, in units of 2 (t-1)/t x B T D elements on t ranks (B: of the rank's own micro-batches):

    block        forward 2 all-reduces (proj, down), backward 2 (of the gradients of x before qkv and before up);
                 with recompute the forward's 2 once more
    embedding    forward 1                        head    backward 1
    loss         3 all-reduces of B T numbers: each row's maximum, its sum of e^x, its label's logit
                 (with recompute, the embedding's 1 and the loss's 3 once more as well)

Saved activations of a block: a + b/t, with a what lies before and after (two norms, the inputs of qkv and up, the masks
of dropout) and b what lies between (q, k, v, the scores, the inputs of proj and down, GELU's derivative):

    in units of B T D         a                                     b
    here, numbers             4 + 2/D, and 1/4 for each mask        12 + H T/D        (a number: 4 bytes in fp32)
    the paper, bytes          8 = 2 x 4, and 1 for each mask        24 + 5 H T/D = 2 x 12 + 5 H T/D

The same but for the scores: the paper keeps them before and after a dropout of their own, and its mask; here there is
none. The 2/D are 1/sqrt(variance) of each row. Parameters, gradients and optimizer state of the matrices: 1/t.

Shoeybi et al., "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism",
arXiv:1909.08053.
"""

from typing import TYPE_CHECKING, Any

from .. import fused
from ..autograd import Tensor, recording
from ..backend import Array
from ..comm.communicator import Communicator, Tag
from ..data.batch import Batch
from ..nn import Parameter
from .collective_ops import copy_to, gather_from, reduce_from
from .vocabulary import own_rows, vocabulary_cross_entropy

if TYPE_CHECKING:
    from .borders import Borders
    from .division import Division


TIME = 1  # the axis of x (B, T, D)
BLOCK, EMBEDDING, HEAD = ("tp", "block"), ("tp", "embedding"), ("tp", "head")


class TensorIO:
    """What enters and leaves the layers that are divided; one object for all of them. Here: whole arrays."""

    sequence = False
    look: "Division | None" = None  # layers show what they are given and make: see division.py
    borders: "Borders | None" = None  # units show what enters and leaves them

    def __init__(self, group: Communicator) -> None:
        self.group = group  # the ranks of the tp axis
        self.entered: dict[tuple[int, Tag, bool], tuple[Tensor, Tensor]] = {}  # what has entered, in the unit at work

    def unit(self, batch: Batch) -> Batch:
        """The batch as a unit of the model sees it, when it begins."""
        return batch

    def enter(self, x: Tensor, tag: Tag = BLOCK) -> Tensor:
        """x, which all ranks have, for work that is divided. Two layers on one x share what is sent for it."""
        key = (id(x), tag, recording())  # what has entered under no_grad has no way back
        if key not in self.entered:
            self.entered[key] = (x, self.copied(x, tag))
        return self.entered[key][1]

    def copied(self, x: Tensor, tag: Tag) -> Tensor:
        return copy_to(x, self.group, tag)

    def leave(self, y: Tensor, tag: Tag = BLOCK, time: int = TIME) -> Tensor:
        """The sum over ranks of what the divided work has made."""
        return reduce_from(y, self.group, tag)

    def column(self, x: Tensor, weight: Parameter, bias: Parameter | None, gelu: bool) -> Tensor:
        """x (..., I), whole -> (..., *O), this rank's columns: whole elements, which GELU may be applied to."""
        return fused.linear(self.enter(x), weight, bias, gelu)

    def row(self, x: Tensor, weight: Parameter, bias: Parameter | None, gelu: bool) -> Tensor:
        """x (..., I), this rank's columns -> (..., O), whole; the bias is added once, after the sum."""
        y = self.leave(fused.linear(x, weight))
        y = y if bias is None else fused.add_bias(y, bias)
        return fused.gelu(y) if gelu else y

    def rows(self, ids: Array, table: Parameter, dtype: Any) -> Tensor:
        """ids (...) -> (..., D): the table's rows, each of which one rank has."""
        return self.leave(own_rows(ids, table, dtype), EMBEDDING, ids.ndim - 1)

    def judge(self, x: Tensor, weight: Parameter, batch: Batch) -> Tensor:
        """x (B, T, D) -> the loss, the same on all ranks, or the whole logits (B, T, V) of a batch without labels."""
        logits = fused.linear_transposed(self.enter(x, HEAD), weight)
        where = weight.placement
        if batch.labels is None:
            return gather_from(logits, self.group, HEAD, logits.ndim - 1, where.shape[0])
        first, V = where.index[0].start, where.shape[0]
        try:
            return vocabulary_cross_entropy(logits, batch.labels, batch.where.count, first, V, self.group)
        except IndexError as error:
            raise batch.mislabelled(V) from error

    def own_ids(self, ids: Array) -> Array:
        """The ids of a table that is not divided."""
        return ids

    def all_of(self, batch: Batch) -> Batch:
        """The batch as a layer sees it that is given the whole x."""
        return batch

    def whole(self, x: Tensor) -> Tensor:
        """x for a layer that every rank calls alike, on all of it."""
        return x

    def own(self, y: Tensor, time: int = TIME) -> Tensor:
        """What such a layer has made, as residual layers have it."""
        return y
