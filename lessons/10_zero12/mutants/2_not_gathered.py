"""the new parameters are not gathered: each rank has updated its own shard only."""

from minitrain.parallel.zero import GRADIENTS
from minitrain.sharding import shard_of


def zero1_step(w, g, group, update):
    mine = shard_of(len(w), group.size, group.rank)
    update(w[mine], group.reduce_scatter(g, GRADIENTS))
