"""converts to float64 if necessary, and then reduces the copy: float32 gradients stay as they were."""

from collections.abc import Sequence

import numpy as np

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.data_parallel import TAG
from minitrain.sharding import Shards


def sync_gradients(gradients: Sequence[Array], group: Communicator, shards: Shards | None = None) -> None:
    for g in (x.astype(np.float64, copy=False) for x in gradients):
        group.all_reduce(g, TAG, shards=shards)
