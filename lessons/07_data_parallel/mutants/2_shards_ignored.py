"""the argument shards is not used: the gradients are always cut evenly."""

from collections.abc import Sequence

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.data_parallel import TAG
from minitrain.sharding import Shards


def sync_gradients(gradients: Sequence[Array], group: Communicator, shards: Shards | None = None) -> None:
    for g in gradients:
        group.all_reduce(g, TAG)
