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

import numpy as np

from .. import backend, fused
from ..autograd import Tensor, apply, operation, recording
from ..backend import Array, xp
from ..comm.communicator import Communicator, Tag
from ..data.batch import Batch
from ..errors import UserError
from ..functional import row_max
from ..nn import Module, Parameter
from .collective_ops import copy_to, gather_from, reduce_from, summed

if TYPE_CHECKING:
    from .borders import Borders
    from .division import Division

TIME = 1  # the axis of x (B, T, D)
BLOCK, EMBEDDING, HEAD, LOSS = ("tp", "block"), ("tp", "embedding"), ("tp", "head"), ("tp", "loss")


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


# Layers in their divided form, which comes before their own class: see Plan.change -----------------------------------


class Divided(Module):
    """A layer whose input or output passes through `io`."""

    io: TensorIO

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Raise UserError: a copy (copy.deepcopy, pickle) would be of one rank's part."""
        raise UserError(
            f"{self.path} cannot be copied: this rank holds a part of it.\n"
            "Gather the model first, minitrain.train.checkpoint.gather, and restore it into a new one"
        )


class Multiplies(Divided):
    """What has a part of its matrix. wrong: what is said of an x with another number of columns."""

    fan_in: int
    word: str
    wrong: str

    def given(self, x: Any) -> Tensor:
        """x. Raise UserError for what this part of the matrix does not multiply."""
        x = first_of(self, self.word, x)
        if x.shape[-1] != self.fan_in:
            raise UserError(self.wrong.format(path=self.path, fan_in=self.fan_in, shape=x.shape))
        return x


def first_of(layer: Module, word: str, x: Any) -> Tensor:
    """x, the first argument of a layer. Raise UserError for what is no Tensor."""
    if not isinstance(x, Tensor):
        raise UserError(
            f"plan.{word}({layer.path}): it must be called with a Tensor as its first argument, by position, since "
            f"that is what ranks send each other; it is given {'none' if x is None else f'a {type(x).__name__}'}"
        )
    return x


class Columns(Multiplies):
    """What has columns of its own is given the whole x."""

    word = "column"
    wrong = (
        "plan.column({path}): it multiplies {fan_in} columns, and is given x {shape}, a part of them.\n"
        "Behind another column it is plan.row(it)"
    )


class Rows(Multiplies):
    """What has rows of its own is given as many columns, divided as they are."""

    word = "row"
    wrong = (
        "plan.row({path}): this rank has {fan_in} of its rows, and it is given x {shape}.\n"
        "Name it column if that is the whole x; if these are heads, plan.row(it, parts=heads)"
    )


class Column(Columns):
    """Any layer that multiplies by its own columns."""

    def __call__(self, x: Any = None, *rest: Any, **options: Any) -> Tensor:
        x = self.io.enter(self.at("linear", self.given(x)))
        return super().__call__(x, *rest, **options)  # type: ignore[misc]


class Row(Rows):
    """Any layer that is linear: what it makes is added up."""

    def __call__(self, x: Any = None, *rest: Any, **options: Any) -> Tensor:
        y = super().__call__(self.given(x), *rest, **options)  # type: ignore[misc]
        if self.io.look is not None:
            check_linear(self.path, y, super().__call__(Tensor(x.data * -2), *rest, **options))  # type: ignore[misc]
        return self.io.leave(y)


def check_linear(path: str, y: Tensor, other: Tensor) -> None:
    """Raise UserError unless the other, made of -2 x, is -2 y."""
    size = float(abs(y.data).max()) if y.data.size else 0.0
    bound = (1e-9 if y.dtype.itemsize == 8 else 1e-2) * size
    if not y.data.size or float(abs(other.data + 2 * y.data).max()) <= bound:
        return
    raise UserError(
        f"plan.row({path}): the layer is not linear, so the ranks' results cannot be added up: of -2 x it does not "
        "make -2 times what it makes of x.\nLet it multiply only, and do the rest (bias, activation) after it"
    )


class Gathered(Divided):
    """A layer that every rank calls alike; ids are whole as they are, and so is what a first unit is given: nothing."""

    word = "gather"

    def __call__(self, x: Tensor | Array | None = None, *rest: Any, **options: Any) -> Tensor:
        if x is None and any(isinstance(it, Tensor) for it in options.values()):
            first_of(self, self.word, x)
        x = self.taken(x) if isinstance(x, Tensor) else x
        every = [self.all_of(it) for it in rest]
        options = {name: self.all_of(it) for name, it in options.items()}
        return super().__call__(x, *every, **options)  # type: ignore[misc]

    def taken(self, x: Tensor) -> Tensor:
        return self.io.whole(x)

    def all_of(self, it: Any) -> Any:
        """A batch as such a layer sees it; anything else as it is."""
        return self.io.all_of(it) if isinstance(it, Batch) else it


class Entered(Gathered):
    """And whose result meets what is divided: the gradient that comes back to x is a part of it on each rank."""

    word = "enter"

    def taken(self, x: Tensor) -> Tensor:
        return self.io.enter(x)


class Everywhere(Gathered):
    """A gathered one that is followed by residual layers."""

    word = "everywhere"

    def __call__(self, x: Tensor | Array | None = None, *rest: Any, **options: Any) -> Tensor:
        time = TIME if x is None or isinstance(x, Tensor) else x.ndim - 1
        return self.io.own(super().__call__(x, *rest, **options), time)


class ResidualDropout(Divided):
    """A dropout of whole rows."""

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        if self.io.look is not None:
            self.io.look.check_dropout(self.path, x)
        return super().__call__(x, batch)  # type: ignore[misc]


class Unit(Divided):
    """A unit of the model: it says when it begins, and with which batch."""

    words: str  # what is said about its layers

    def __call__(self, x: Tensor | None, batch: Batch) -> Tensor:
        """Raise UserError for shapes that do not fit: those of its layers are not what its author had before him."""
        borders = self.io.borders
        x = x if x is None or borders is None else borders.enter(self.path, x)
        try:
            y = super().__call__(x, self.io.unit(batch))  # type: ignore[misc]
        except (ValueError, IndexError) as error:
            raise UserError(f"{self.path}, with its layers divided: {error}.\n{self.advice()}") from error
        finally:
            self.io.entered.clear()
        return y if borders is None else borders.leave(self.path, y)

    def advice(self) -> str:
        """What to look at, if it runs on one process."""
        if self.words:
            return f"If it runs on one process, what `shard` says is wrong, or something is left out: {self.words}"
        return (
            "If it runs on one process: its `shard` names no layer that is divided. One that makes the loss from all "
            "of x says plan.gather(self), one that looks at several positions plan.everywhere(self)"
        )


class ColumnLinear(Columns):
    """nn.Linear by columns."""

    weight: Parameter
    bias: Parameter

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        return self.io.column(self.at("linear", self.given(x)), self.weight, self.bias, gelu)


class RowLinear(Rows):
    """nn.Linear by rows."""

    weight: Parameter
    bias: Parameter

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        return self.io.row(self.at("linear", self.given(x)), self.weight, self.bias, gelu)


class VocabularyEmbedding(Divided):
    """Rows of the table: an id that is another rank's gives a row of zeros here, and the sum has the right one."""

    weight: Parameter

    def __call__(self, ids: Array) -> Tensor:
        return self.io.rows(ids, self.weight, self.chosen("embedding", self.weight.dtype))


class WholeEmbedding(Divided):
    """A table that every rank has."""

    def __call__(self, ids: Array) -> Tensor:
        return super().__call__(self.io.own_ids(ids))  # type: ignore[misc]


class VocabularyClassifier(Divided):
    """Logits of this rank's part of the vocabulary, and their cross-entropy."""

    weight: Parameter

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        return self.io.judge(self.at("linear", x), self.weight, batch)


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
