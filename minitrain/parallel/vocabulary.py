"""Embedding lookup and cross-entropy with a token table divided by rows, along the vocabulary.

Shoeybi et al., "Megatron-LM", arXiv:1909.08053, section 3.
"""

from typing import Any

import numpy as np

from .. import backend
from ..autograd import apply
from ..backend import Array, xp
from ..comm.communicator import Communicator
from ..functional import row_max
from ..losses import targets
from ..nn import Parameter
from ..operands import as_ids
from ..tensor import Tensor, operation
from .collective_ops import summed

LOSS = ("tp", "loss")


@operation
def own_rows(ids: Array, table: Parameter, dtype: Any = None) -> Tensor:
    """y = table[id - first] where this slice of the table has the id, else 0.  ids (...) -> (..., D).

    Raise IndexError for an id outside the whole table, ValueError for a table without 2 axes.
    """
    ids = xp.asarray(as_ids("own_rows: ids", ids))
    if len(table.shape) != 2:
        raise ValueError(f"own_rows: the table has shape {table.shape}; it needs 2 axes")
    first, rows = table.placement.index[0].start, table.shape[0]
    V = table.placement.shape[0]
    if ids.size and not (0 <= int(ids.min()) and int(ids.max()) < V):
        raise IndexError(f"ids reach from {ids.min()} to {ids.max()}; the table has rows 0 to {V - 1}")
    here, local = _own_ids(ids, first, rows)
    y = xp.zeros((*ids.shape, table.shape[1]), dtype or table.dtype)
    y[here] = table.data[local]

    def table_vjp(g: Array, out: Array | None = None) -> Array:
        out = xp.empty(table.shape, table.dtype) if out is None else out
        here, local = _own_ids(ids, first, rows)
        backend.scatter_add(out, local, g[here])
        return out

    return apply(y, weights=[(table, table_vjp)], saved=(ids,))


def _own_ids(ids: Array, first: int, rows: int) -> tuple[Array, Array]:
    """Return (a mask of the ids among the `rows` from `first` on, the rows of these here). Cheaper to find twice than
    to keep."""
    here = (ids >= first) & (ids < first + rows)
    return here, ids[here].astype(np.int64) - first  # the ids' own dtype may be too small for the number `first`


@operation
def vocabulary_cross_entropy(
    logits: Tensor, labels: Array, denominator: float, first: int, V: int, group: Communicator
) -> Tensor:
    """fused.cross_entropy for x (..., V_r), the logits of V_r ids from `first` on, out of V; labels (...).

    L = sum over tokens n of (ln sum_v e^x_nv - x_n,label(n)) / denominator, with the sum over v and the label's logit
    reduced over ranks: per row, only the maximum, the sum and the label's logit are sent. L is the same on every rank
    and counts once; gx_nv = g (softmax(x_n)_v - 1[v = label(n)]) / denominator, for the ids v held here.
    Tokens whose label is IGNORE are skipped. Raise IndexError for any other label outside 0..V-1.
    """
    labels = xp.asarray(as_ids("vocabulary_cross_entropy: labels", labels))
    flat, ignored = targets(labels, logits.shape[:-1], V)
    dtype, shape, rows = logits.dtype, logits.shape, labels.size  # the vjp must not keep the logits themselves
    held = shape[-1]
    x = logits.data.reshape(rows, held).astype(backend.accumulation_dtype(dtype), copy=False)
    top = xp.array(row_max(x) if held else xp.full((rows, 1), -xp.inf, x.dtype))
    group.all_reduce(top, LOSS, op="max")
    p = xp.exp(shifted := x - top)
    z = summed(backend.total(p, axis=-1, keepdims=True), group, LOSS)
    here, column = _own_labels(flat, first, held)
    right = xp.zeros(rows, x.dtype)
    right[here] = shifted[here, column]
    right = summed(right, group, LOSS)
    losses = xp.log(z)[:, 0] - right
    if ignored is not None:
        losses[ignored] = 0
    p /= z
    kept = (p,) if x.dtype == dtype else (logits.data, top, z)  # half precision: recompute p from the logits

    def vjp(g: Array) -> tuple[Array]:
        here, column = _own_labels(flat, first, held)
        p = kept[0] if len(kept) == 1 else xp.exp(kept[0].reshape(rows, held) - kept[1]) / kept[2]
        p[here, column] -= 1  # in place: backward runs only once
        gx = xp.multiply(p, g / float(denominator), out=p)
        if ignored is not None:
            gx[ignored] = 0
        return (gx.astype(dtype, copy=False).reshape(shape),)

    saved = (*kept, flat) if ignored is None else (*kept, flat, ignored)
    return apply((losses.sum() / float(denominator)).astype(x.dtype), (logits,), vjp, saved=saved)


def _own_labels(flat: Array, first: int, held: int) -> tuple[Array, Array]:
    """Return (the tokens whose label is among the `held` ids from `first` on, the columns of these labels here)."""
    here = xp.nonzero((flat >= first) & (flat < first + held))[0]
    return here, flat[here].astype(np.int64) - first
