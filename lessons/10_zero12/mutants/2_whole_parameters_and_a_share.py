"""the optimizer gets all parameters with the gradient of a shard: the lengths differ."""

from minitrain.parallel.zero import GRADIENTS, PARAMETERS

SAYS = "update was called with a piece of"


def zero1_step(w, g, group, update):
    update(w, group.reduce_scatter(g, GRADIENTS))
    group.all_gather(w, PARAMETERS)
