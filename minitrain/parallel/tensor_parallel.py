"""Tensor parallel: every rank holds a part of each matrix and processes the whole batch.

    column parallel: columns of A and their outputs        row parallel: rows of B and their inputs

                      A = [A_0 | A_1]                                  B = [B_0]
                                                                           [B_1]
    x --copy--> x A_0 --gelu--> h_0 --> h_0 B_0 --+
          \\-> x A_1 --gelu--> h_1 --> h_1 B_1 --+-- all-reduce --> y = h_0 B_0 + h_1 B_1, and then + b

The order matters. After a column layer, each rank has complete elements of h and can apply GELU to them; after a row
layer it would have partial sums, and gelu(a + b) is not gelu(a) + gelu(b). Attention is divided by heads: qkv by
columns, proj by rows. The token table is divided by rows, along the vocabulary, and so are the logits: in training, no
rank ever holds a whole row of them. Norms, biases after an all-reduce and position tables are replicated; their
gradients are complete on every rank.

Traffic per rank of a ring, in units of 2 (t-1)/t x B T D elements on t ranks (B: of the rank's own micro-batches):

    block        forward 2 all-reduces (proj, down), backward 2 (of the gradients of x before qkv and before up);
                 with recompute the forward's 2 again
    embedding    forward 1                        head    backward 1
    loss         3 all-reduces of B T numbers: each row's maximum, its sum of e^x, its label's logit
                 (with recompute, the embedding's 1 and the loss's 3 again as well)

Saved activations of a block: a + b/t, where a is outside the divided layers (two norms, the inputs of qkv and up, the
dropout masks) and b is between them (q, k, v, the scores, the inputs of proj and down, GELU's derivative):

    in units of B T D         a                                     b
    here, elements            4 + 2/D, and 1/4 for each mask        12 + H T/D        (an element: 4 bytes in fp32)
    the paper, bytes          8 = 2 x 4, and 1 for each mask        24 + 5 H T/D = 2 x 12 + 5 H T/D

The two differ only in the scores: only the paper applies dropout to them, and keeps its input, output and mask.
The 2/D is 1/sqrt(variance) of each row, twice. Matrix parameters, their gradients and optimizer state: 1/t.

Shoeybi et al., "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism",
arXiv:1909.08053.
"""

from typing import TYPE_CHECKING, Any

from .. import fused
from ..autograd import recording
from ..backend import Array
from ..comm.communicator import Communicator, Tag
from ..data.batch import Batch
from ..nn import Parameter
from ..tensor import Tensor
from .collective_ops import copy_to, gather_from, reduce_from
from .vocabulary import own_rows, vocabulary_cross_entropy

if TYPE_CHECKING:
    from .border_checks import Borders
    from .division_checks import DivisionChecks


TIME = 1  # the axis of x (B, T, D)
BLOCK, EMBEDDING, HEAD = ("tp", "block"), ("tp", "embedding"), ("tp", "head")


class TensorIO:
    """How activations enter and leave divided layers; all layers share one object. This base class passes whole arrays.

    group: the ranks along tp, t of them.
    """

    sequence = False
    look: "DivisionChecks | None" = None  # while set, layers check their inputs and outputs: see division_checks.py
    borders: "Borders | None" = None  # while set, it records the inputs and outputs of units

    def __init__(self, group: Communicator) -> None:
        self.group = group  # the ranks of the tp axis
        self.entered: dict[tuple[int, Tag, bool], tuple[Tensor, Tensor]] = {}  # what has entered in the current unit

    def unit(self, batch: Batch) -> Batch:
        """Return the batch that a unit of the model is called with."""
        return batch

    def enter(self, x: Tensor, tag: Tag = BLOCK) -> Tensor:
        """Return x (B, T, ...) as the input of divided layers. Layers with the same x share one communication."""
        key = (id(x), tag, recording())  # under no_grad, x enters without a backward
        if key not in self.entered:
            self.entered[key] = (x, self.copied(x, tag))
        return self.entered[key][1]

    def copied(self, x: Tensor, tag: Tag) -> Tensor:
        """Return x (B, T, ...), with an all-reduce of its gradient in backward."""
        return copy_to(x, self.group, tag)

    def leave(self, y: Tensor, tag: Tag = BLOCK, time: int = TIME) -> Tensor:
        """Return the sum over ranks of y (B, T, ...), the partial result of divided layers."""
        return reduce_from(y, self.group, tag)

    def column(self, x: Tensor, weight: Parameter, bias: Parameter | None, gelu: bool) -> Tensor:
        """x (..., I), whole -> (..., *O), this rank's columns: complete elements, so GELU may be applied."""
        return fused.linear(self.enter(x), weight, bias, gelu)

    def row(self, x: Tensor, weight: Parameter, bias: Parameter | None, gelu: bool) -> Tensor:
        """x (..., I), this rank's columns -> (..., O), whole. The bias is added once, after the sum over ranks."""
        y = self.leave(fused.linear(x, weight))
        y = y if bias is None else fused.add_bias(y, bias)
        return fused.gelu(y) if gelu else y

    def rows(self, ids: Array, table: Parameter, dtype: Any) -> Tensor:
        """ids (...) -> (..., D): rows of the table, each held by one rank."""
        return self.leave(own_rows(ids, table, dtype), EMBEDDING, ids.ndim - 1)

    def classify(self, x: Tensor, weight: Parameter, batch: Batch) -> Tensor:
        """x (B, T, D) -> the loss (), the same on all ranks, or the whole logits (B, T, V) of a batch without labels.

        Raise UserError for a label outside the vocabulary.
        """
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
        """Return the ids (..., T) that this rank looks up in an undivided table."""
        return ids

    def all_of(self, batch: Batch) -> Batch:
        """Return the batch for a layer that gets the whole x."""
        return batch

    def whole(self, x: Tensor) -> Tensor:
        """Return the whole x (B, T, ...), for a layer that every rank calls on all of it."""
        return x

    def own(self, y: Tensor, time: int = TIME) -> Tensor:
        """Return y (B, T, ...), the output of a layer called on the whole x, in the form residual layers expect."""
        return y
