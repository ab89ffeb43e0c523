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

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import backend, fused
from ..autograd import Tensor, apply, operation
from ..backend import Array, xp
from ..comm.communicator import Communicator
from ..data.batch import Batch
from ..errors import UserError
from ..functional import row_max
from ..models import Model
from ..nn import Attention, Classifier, Embedding, FeedForward, Linear, Module, Parameter
from ..shares import share
from .collective_ops import copy_to, gather_from, reduce_from, summed

BLOCK, EMBEDDING, HEAD, LOSS = ("tp", "block"), ("tp", "embedding"), ("tp", "head"), ("tp", "loss")


class Placed(Module):
    """A module that has taken over the fields of a serial one; `divide` cuts its parameters down to this rank's."""

    group: Communicator  # the ranks of the tp axis

    def divide(self) -> None:
        """Changes placements; called once, before any values are drawn."""


def cut(p: Parameter, dim: int, n: int, group: Communicator) -> None:
    """Leaves p this rank's share of dimension dim, in steps of shape[dim] / n elements. A shared one is cut once.

    Raises UserError where n is 1: the rank that held it all would take it for a parameter that every rank holds.
    """
    if group.size > n == 1:
        raise UserError(f"--tp is {group.size}, but {p.placement.path} has size 1 where it is divided; allowed: 1")
    if p.placement.local == p.placement.shape:
        own, step = share(n, group.size, group.rank), p.shape[dim] // n
        p.placement = p.placement.split(dim, own.start * step, own.stop * step)


class ColumnLinear(Placed, Linear):
    """y_r = x A_r + b_r: whole elements of y, for this rank's columns."""

    axis = 0  # of the output's axes *O: the one that is divided

    def divide(self) -> None:
        n = self.bias.shape[self.axis]
        cut(self.weight, 1 + self.axis, n, self.group)
        cut(self.bias, self.axis, n, self.group)

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        """x (..., I), whole -> (..., *O), this rank's columns."""
        return fused.linear(copy_to(self.at("linear", x), self.group, BLOCK), self.weight, self.bias, gelu)


class HeadsLinear(ColumnLinear):
    """Columns by heads: the output is (3, H, D/H)."""

    axis = 1


class RowLinear(Placed, Linear):
    """y = sum over ranks of x_r B_r, and b added once, after the sum."""

    parts = 0  # whole things that the rows are cut into: heads; single rows unless given

    def divide(self) -> None:
        cut(self.weight, 0, self.parts or self.weight.shape[0], self.group)

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        """x (..., I), this rank's columns -> (..., O), whole."""
        y = fused.linear(self.at("linear", x), self.weight)
        return fused.add_bias(reduce_from(y, self.group, BLOCK), self.bias)


class TensorAttention(Placed, Attention):
    """H/t heads. How many these are is read from the local weight, never from the config."""

    kinds: ClassVar[tuple[type[Placed], type[Placed]]] = (HeadsLinear, RowLinear)

    def divide(self) -> None:
        heads = self.qkv.weight.shape[2]
        if self.group.size > heads:
            raise UserError(f"--tp is {self.group.size}, but {self.path} has {heads} heads; allowed: 1 to {heads}")
        self.qkv = take_over(self.qkv, self.kinds[0], self.group)
        self.proj = take_over(self.proj, self.kinds[1], self.group, parts=heads)


class TensorFeedForward(Placed, FeedForward):
    """F/t columns of up, the same rows of down."""

    kinds: ClassVar[tuple[type[Placed], type[Placed]]] = (ColumnLinear, RowLinear)

    def divide(self) -> None:
        self.up = take_over(self.up, self.kinds[0], self.group)
        self.down = take_over(self.down, self.kinds[1], self.group)


class VocabularyEmbedding(Placed, Embedding):
    """Rows of the table: an id that is another rank's gives a row of zeros here, and the sum has the right one."""

    def divide(self) -> None:
        cut(self.weight, 0, self.weight.shape[0], self.group)

    def __call__(self, ids: Array) -> Tensor:
        """ids (...) -> (..., D), whole."""
        return reduce_from(self.partial(ids), self.group, EMBEDDING)

    def partial(self, ids: Array) -> Tensor:
        """ids (...) -> (..., D): the rows that are held here, zeros for the others."""
        return own_rows(ids, self.weight, self.chosen("embedding", self.weight.dtype))


@operation
def own_rows(ids: Array, table: Parameter, dtype: Any = None) -> Tensor:
    """y = table[id - first] where this slice of the table has the id, otherwise 0.  ids (...) -> (..., D)."""
    ids = xp.asarray(backend.as_ids("own_rows: ids", ids))
    if len(table.shape) != 2:
        raise ValueError(f"own_rows: the table has shape {table.shape}; it needs 2 axes")
    first, rows = table.placement.index[0].start, table.shape[0]
    V = table.placement.shape[0]
    if ids.size and not (0 <= int(ids.min()) and int(ids.max()) < V):
        raise IndexError(f"ids reach from {ids.min()} to {ids.max()}; the table has rows 0 to {V - 1}")
    here = (ids >= first) & (ids < first + rows)
    local = ids[here].astype(np.int64) - first  # the ids' own dtype may be too small for the number `first`
    y = xp.zeros((*ids.shape, table.shape[1]), dtype or table.dtype)
    y[here] = table.data[local]

    def table_vjp(g: Array, out: Array | None = None) -> Array:
        out = xp.empty(table.shape, table.dtype) if out is None else out
        backend.scatter_add(out, local, g[here])
        return out

    return apply(y, weights=[(table, table_vjp)], saved=(here, local))


class VocabularyClassifier(Placed, Classifier):
    """Logits of this rank's part of the vocabulary, and their cross-entropy."""

    def divide(self) -> None:
        cut(self.weight, 0, self.weight.shape[0], self.group)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        """x (B, T, D) -> the loss, the same on all ranks, or the whole logits (B, T, V) of a batch without labels."""
        return self.judge(copy_to(self.at("linear", x), self.group, HEAD), batch)

    def judge(self, x: Tensor, batch: Batch) -> Tensor:
        """From x as every rank has it."""
        logits = fused.linear_transposed(x, self.weight)
        where = self.weight.placement
        if batch.labels is None:
            return gather_from(logits, self.group, HEAD, 2, where.shape[0])
        first, V = where.index[0].start, where.shape[0]
        try:
            return vocabulary_cross_entropy(logits, batch.labels, batch.where.count, first, V, self.group)
        except IndexError as error:
            raise batch.mislabelled(V) from error


@operation
def vocabulary_cross_entropy(
    logits: Tensor, labels: Array, denominator: float, first: int, V: int, group: Communicator
) -> Tensor:
    """fused.cross_entropy for logits x (..., V_r) of the ids from `first` on, of V in all.

    L = sum over tokens n of (ln sum_v e^x_nv - x_n,label(n)) / denominator, with the sum over v and the label's logit
    made over the ranks: of each row only the maximum, the sum and the label's logit travel. L is the same on every rank
    and counts once; gx_nv = g (softmax(x_n)_v - 1[v = label(n)]) / denominator as ever, for the v that are here.
    Tokens whose label is IGNORE are left out, as there. Raises IndexError for any other label outside 0..V-1.
    """
    labels = xp.asarray(backend.as_ids("vocabulary_cross_entropy: labels", labels))
    flat, ignored = fused.targets(labels, logits.shape[:-1], V)
    dtype, shape, rows = logits.dtype, logits.shape, labels.size  # the vjp must not keep the logits themselves
    held = shape[-1]
    x = logits.data.reshape(rows, held).astype(backend.wide(dtype), copy=False)
    top = row_max(x) if held else xp.full((rows, 1), -xp.inf, x.dtype)
    top = xp.array(top)
    group.all_reduce(top, LOSS, op="max")
    shifted = x - top
    p = xp.exp(shifted)
    z = summed(backend.total(p, axis=-1, keepdims=True), group, LOSS)
    mine = xp.nonzero((flat >= first) & (flat < first + held))[0]
    column = flat[mine].astype(np.int64) - first
    right = xp.zeros(rows, x.dtype)
    right[mine] = shifted[mine, column]
    right = summed(right, group, LOSS)
    losses = xp.log(z)[:, 0] - right
    if ignored is not None:
        losses[ignored] = 0
    loss = losses.sum() / float(denominator)
    p /= z
    kept = (p,) if x.dtype == dtype else (logits.data, top, z)  # in half precision p is made again from the logits

    def vjp(g: Array) -> tuple[Array]:
        p = kept[0] if len(kept) == 1 else xp.exp(kept[0].reshape(rows, held) - kept[1]) / kept[2]
        p[mine, column] -= 1  # in place: the tape is walked once
        gx = xp.multiply(p, g / float(denominator), out=p)
        if ignored is not None:
            gx[ignored] = 0
        return (gx.astype(dtype, copy=False).reshape(shape),)

    saved = (*kept, mine, column) if ignored is None else (*kept, mine, column, ignored)
    return apply(loss.astype(x.dtype), (logits,), vjp, saved=saved)


# From the serial model to this form -----------------------------------------------------------------------------------

Table = Mapping[str, type[Placed]]  # pattern of a path -> what takes the module's place

TENSOR: Table = {
    r"embed\.tokens": VocabularyEmbedding,
    r"blocks\.\d+\.attn": TensorAttention,
    r"blocks\.\d+\.mlp": TensorFeedForward,
    r"head\.classifier": VocabularyClassifier,
    r"dense\.\d*[02468]\.linear": ColumnLinear,
    r"dense\.\d*[13579]\.linear": RowLinear,
    r"head\.linear": RowLinear,
}


def take_over(module: Module, kind: type[Placed], group: Communicator, **fields: Any) -> Any:
    """A `kind` with the module's fields, so that paths and attributes stay, and divided."""
    placed = kind.__new__(kind)
    placed.__dict__.update(vars(module), group=group, **fields)
    placed.divide()
    return placed


def place(model: Model, table: Table, group: Communicator) -> None:
    """Puts what the table says in the place of the model's modules, units first."""
    if sum(unit.path.startswith("dense.") for unit in model.units) % 2 == 0:  # the head of an MLP follows a row
        table = {pattern: kind for pattern, kind in table.items() if pattern != r"head\.linear"}
    model.units = [_placed(unit, table, group) for unit in model.units]
    for unit in model.units:
        for module in list(unit.modules()):
            for name, child in list(module.children()):
                module.put(name, _placed(child, table, group))


def _placed(module: Module, table: Table, group: Communicator) -> Module:
    for pattern, kind in table.items():
        if re.fullmatch(pattern, module.path) and not isinstance(module, Placed):
            if type(module) not in kind.__mro__:
                raise UserError(
                    f"tensor parallel puts a {kind.__name__} in the place of {module.path}, whose class "
                    f"{type(module).__name__} it does not know: what that does otherwise would be lost.\n"
                    "Give the layer another path, which leaves it whole on every rank, or a table for its class"
                )
            return take_over(module, kind, group)
    return module
