"""Takes the views of NumPy's array_split, which cuts as shard_of does."""

from collections.abc import Callable

import numpy as np

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.zero import GRADIENTS, PARAMETERS


def zero1_step(w: Array, g: Array, group: Communicator, update: Callable[[Array, Array], None]) -> None:
    piece = np.array_split(w, group.size)[group.rank]
    update(piece, group.reduce_scatter(g, GRADIENTS))
    group.all_gather(w, PARAMETERS)
