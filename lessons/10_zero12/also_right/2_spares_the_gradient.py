"""Sums in a copy, so that g stays as it was, and gathers into an array of its own before it writes w."""

from collections.abc import Callable

import numpy as np

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.zero import GRADIENTS, PARAMETERS
from minitrain.sharding import even_shards


def zero1_step(w: Array, g: Array, group: Communicator, update: Callable[[Array, Array], None]) -> None:
    cuts = even_shards(len(w), group.size)
    mine = cuts[group.rank]
    update(w[mine], group.reduce_scatter(g.copy(), GRADIENTS, cuts))
    new = np.zeros_like(w)
    new[mine] = w[mine]
    group.all_gather(new, PARAMETERS, cuts)
    w[...] = new
