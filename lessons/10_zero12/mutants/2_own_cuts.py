"""cuts at rank n // N and tells both collectives so: consistent, but the piece is not this rank's shard_of."""

import itertools
from collections.abc import Callable

from minitrain.backend import Array
from minitrain.comm.communicator import Communicator
from minitrain.parallel.zero import GRADIENTS, PARAMETERS


def zero1_step(w: Array, g: Array, group: Communicator, update: Callable[[Array, Array], None]) -> None:
    n, ranks = len(w), group.size
    borders = [rank * n // ranks for rank in range(ranks + 1)]
    cuts = [slice(a, b) for a, b in itertools.pairwise(borders)]
    total = group.reduce_scatter(g, GRADIENTS, cuts)
    update(w[cuts[group.rank]], total)
    group.all_gather(w, PARAMETERS, cuts)
