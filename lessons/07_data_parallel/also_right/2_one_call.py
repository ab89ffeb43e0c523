"""Packs all gradients of a dtype into one array, rank by rank as they would be cut, and reduces them at once."""

import itertools
from collections.abc import Sequence

import numpy as np

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.data_parallel import TAG
from minitrain.sharding import Shards, even_shards


def sync_gradients(gradients: Sequence[Array], group: Communicator, shards: Shards | None = None) -> None:
    for dtype in dict.fromkeys(g.dtype for g in gradients):
        alike = [g for g in gradients if g.dtype == dtype]
        cuts = [even_shards(len(g), group.size) if shards is None else shards for g in alike]
        views = [[g[cut[rank]] for g, cut in zip(alike, cuts, strict=False)] for rank in range(group.size)]
        packed = np.concatenate([view for row in views for view in row])
        borders = np.cumsum([0] + [sum(map(len, row)) for row in views]).tolist()
        group.all_reduce(packed, TAG, shards=[slice(a, b) for a, b in itertools.pairwise(borders)])
        position = 0
        for row in views:
            for view in row:
                view[...] = packed[position : position + len(view)]
                position += len(view)
