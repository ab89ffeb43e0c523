"""Makes the all-reduce of its two halves."""

from collections.abc import Sequence

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.data_parallel import TAG
from minitrain.sharding import Shards


def sync_gradients(gradients: Sequence[Array], group: Communicator, shards: Shards | None = None) -> None:
    for g in gradients:
        group.reduce_scatter(g, TAG, shards)
        group.all_gather(g, TAG, shards)
