"""returns at once on a rank whose shard is empty: it misses both collectives and does not get the new parameters."""

from collections.abc import Callable

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.zero import GRADIENTS, PARAMETERS
from minitrain.sharding import shard_of


def zero1_step(w: Array, g: Array, group: Communicator, update: Callable[[Array, Array], None]) -> None:
    mine = shard_of(len(w), group.size, group.rank)
    if mine.start == mine.stop:
        return
    group.reduce_scatter(g, GRADIENTS)
    update(w[mine], g[mine])
    group.all_gather(w, PARAMETERS)
