"""Gradients sent in 16 bits and summed in 32: data parallel and ZeRO send half as many bytes.

A ring would round the sum again on every hop. Instead, each rank rounds its gradients once and sends every other rank
its part of that rank's shard. The owner sums the N parts in float32, in rank order:

    reduce-scatter, N = 3        rank 0 sends b0 to 1, c0 to 2        (a0: rank 0's part of shard a, in 16 bits)
                                 rank 1 sends a1 to 0, c1 to 2
                                 rank 2 sends a2 to 0, b2 to 1        rank 0 has a0 + a1 + a2, in float32
    all-gather                   of the rounded sums: every rank ends with the same bits

An all-reduce sends as many elements as a ring, 2 (N-1)/N per element, at 2 bytes each, in N - 1 messages instead of
N - 1 hops. Gradients are sent with the loss scale (precision/scaler.py), which keeps them in float16's range. If one
overflows, it becomes infinite and all ranks skip the step, so float16 gradients need a scaler.

Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740; sums in float32: section 3.3.
"""

from collections.abc import Sequence
from typing import Any

from ..backend import Array, accumulation_dtype, xp
from ..comm.communicator import Communicator, Tag
from ..observe import ledger
from ..sharding import Shards, even_shards
from .data_parallel import TAG
from .zero import GRADIENTS


def reduce_scatter_in(x: Array, group: Communicator, tag: Tag, dtype: Any, shards: Shards | None = None) -> Array:
    """Sum the rounded x (n) over ranks into this rank's shard of x, in place. Return that shard."""
    n, r = group.size, group.rank
    if n == 1:
        return x
    rounded = x.astype(dtype)
    ledger.hold(rounded, "buffers", "reduce-scatter")
    shards = shards or even_shards(len(x), n)
    sending = [group.send(rounded[shards[to]], to, tag) for to in range(n) if to != r]
    shard = x[shards[r]]
    total, arriving = xp.zeros(len(shard), accumulation_dtype(x.dtype)), xp.empty(len(shard), dtype)
    for array in (total, arriving):
        ledger.hold(array, "buffers", "reduce-scatter")
    for source in range(n):
        if source == r:
            total += rounded[shards[r]]
        else:
            group.receive(arriving, source, tag)
            total += arriving
    for handle in sending:
        handle.wait()
    shard[...] = total
    return shard


def all_gather_in(x: Array, group: Communicator, tag: Tag, dtype: Any, shards: Shards | None = None) -> None:
    """Fill x (n) with the rounded shards of all ranks, including this rank's own."""
    rounded = x.astype(dtype)
    ledger.hold(rounded, "buffers", "all-gather")
    group.all_gather(rounded, tag, shards)
    x[...] = rounded


def sync_in(gradients: Sequence[Array], group: Communicator, dtype: Any, shards: Shards | None = None) -> None:
    """Replace each gradient, flat (n), by its sum over the group. Passed as data parallel's `sync`."""
    for gradient in gradients:
        if group.size > 1 and gradient.size:
            reduce_scatter_in(gradient, group, TAG, dtype, shards)
            all_gather_in(gradient, group, TAG, dtype, shards)


def reduce_to_owners_in(flat: Array, group: Communicator, dtype: Any, shards: Shards | None = None) -> Array:
    """Return this rank's shard of the sum of flat (n) over ranks. Passed as ZeRO's `scatter`."""
    return reduce_scatter_in(flat, group, GRADIENTS, dtype, shards)
