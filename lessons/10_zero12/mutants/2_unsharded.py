"""the optimizer updates all parameters on every rank: right numbers, right bytes, and the whole state on every rank."""

from minitrain.parallel.zero import GRADIENTS


def zero1_step(w, g, group, update):
    group.reduce_scatter(g, GRADIENTS)
    group.all_gather(g, GRADIENTS)
    update(w, g)
