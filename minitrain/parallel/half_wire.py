"""Gradients that travel in 16 bits and are added up in 32: half the bytes of data parallel and ZeRO.

A ring would round the sum again on every hop. So each rank sends every other rank its part of that one's share, rounded
once, and the owner adds the N parts up in float32, in the order of the ranks:

    reduce-scatter, N = 3        rank 0 sends b0 to 1, c0 to 2        (a0: rank 0's part of share a, in 16 bits)
                                 rank 1 sends a1 to 0, c1 to 2
                                 rank 2 sends a2 to 0, b2 to 1        rank 0 has a0 + a1 + a2, in float32
    all-gather                   of the sums, rounded: every rank ends with the same bits

As many numbers as in a ring, 2 (N-1)/N of them in an all-reduce, at 2 bytes each; N - 1 messages instead of N - 1 hops.
Gradients are sent while they carry the loss scale (precision/scaler.py), which keeps them in float16's range; one that
overflows becomes infinite, and the step is skipped by all. So float16 on the wire wants a scaler.

Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740; sums in float32: section 3.3.
"""

from collections.abc import Sequence
from typing import Any

from ..backend import Array, wide, xp
from ..comm.communicator import Communicator, Tag
from ..observe import ledger
from ..shares import Cuts, shares
from .data_parallel import TAG
from .zero import GRADIENTS


def reduce_scatter_in(x: Array, group: Communicator, tag: Tag, dtype: Any, cuts: Cuts | None = None) -> Array:
    """Returns this rank's share of the flat array x, in which the sum over ranks of the rounded values now stands."""
    n, r = group.size, group.rank
    if n == 1:
        return x
    rounded = x.astype(dtype)
    ledger.hold(rounded, "buffers", "reduce-scatter")
    cuts = cuts or shares(len(x), n)
    sending = [group.send(rounded[cuts[to]], to, tag) for to in range(n) if to != r]
    mine = x[cuts[r]]
    total, arriving = xp.zeros(len(mine), wide(x.dtype)), xp.empty(len(mine), dtype)
    for array in (total, arriving):
        ledger.hold(array, "buffers", "reduce-scatter")
    for source in range(n):
        if source == r:
            total += rounded[cuts[r]]
        else:
            group.receive(arriving, source, tag)
            total += arriving
    for handle in sending:
        handle.wait()
    mine[...] = total
    return mine


def all_gather_in(x: Array, group: Communicator, tag: Tag, dtype: Any, cuts: Cuts | None = None) -> None:
    """Fills the flat array x from the shares of all ranks, rounded, the own one as well."""
    rounded = x.astype(dtype)
    ledger.hold(rounded, "buffers", "all-gather")
    group.all_gather(rounded, tag, cuts)
    x[...] = rounded


def sync_in(gradients: Sequence[Array], group: Communicator, dtype: Any, cuts: Cuts | None = None) -> None:
    """Each gradient becomes its sum over the group: data parallel's `sync`."""
    for gradient in gradients:
        if group.size > 1 and gradient.size:
            reduce_scatter_in(gradient, group, TAG, dtype, cuts)
            all_gather_in(gradient, group, TAG, dtype, cuts)


def reduce_to_owners_in(flat: Array, group: Communicator, dtype: Any, cuts: Cuts | None = None) -> Array:
    """This rank's share of the sum over ranks: ZeRO's `scatter`."""
    return reduce_scatter_in(flat, group, GRADIENTS, dtype, cuts)
