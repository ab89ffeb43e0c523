"""divided by the number of ranks (the loss is already divided by the global batch)."""

from minitrain.parallel.zero import GRADIENTS, PARAMETERS
from minitrain.sharding import shard_of


def zero1_step(w, g, group, update):
    mine = shard_of(len(w), group.size, group.rank)
    update(w[mine], group.reduce_scatter(g, GRADIENTS) / group.size)
    group.all_gather(w, PARAMETERS)
