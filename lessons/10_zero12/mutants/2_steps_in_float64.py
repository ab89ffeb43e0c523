"""the step is made on a float64 copy of the shard, and rounded afterwards."""

from collections.abc import Callable

import numpy as np

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.zero import GRADIENTS, PARAMETERS
from minitrain.sharding import shard_of


def zero1_step(w: Array, g: Array, group: Communicator, update: Callable[[Array, Array], None]) -> None:
    mine = shard_of(len(w), group.size, group.rank)
    total = group.reduce_scatter(g, GRADIENTS)
    piece = w[mine].astype(np.float64)
    update(piece, total.astype(np.float64))
    w[mine] = piece
    group.all_gather(w, PARAMETERS)
