"""Sends the chunks around a ring itself."""

from collections.abc import Sequence

import numpy as np

from minitrain.backend import Array, accumulation_dtype
from minitrain.comm.communicator import Communicator
from minitrain.parallel.data_parallel import TAG
from minitrain.sharding import Shards, even_shards


def sync_gradients(gradients: Sequence[Array], group: Communicator, shards: Shards | None = None) -> None:
    n, rank = group.size, group.rank
    for g in gradients:
        wide = g.astype(accumulation_dtype(g.dtype), copy=False)
        chunks = [wide[cut] for cut in (even_shards(len(g), n) if shards is None else shards)]
        for step in range(2 * (n - 1)):
            out, into = chunks[(rank - 1 - step) % n], chunks[(rank - 2 - step) % n]
            arriving = np.empty_like(into)
            sending = group.send(out, (rank + 1) % n, TAG, step)
            group.receive(arriving, (rank - 1) % n, TAG, step)
            sending.wait()
            into[...] = into + arriving if step < n - 1 else arriving
        if wide is not g:
            g[...] = wide
