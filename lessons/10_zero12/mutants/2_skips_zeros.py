"""no step where the gradient is zero, but momentum moves the parameters all the same."""

from minitrain.parallel.zero import GRADIENTS, PARAMETERS
from minitrain.sharding import shard_of


def zero1_step(w, g, group, update):
    mine = shard_of(len(w), group.size, group.rank)
    total = group.reduce_scatter(g, GRADIENTS)
    if total.any():
        update(w[mine], total)
    group.all_gather(w, PARAMETERS)
