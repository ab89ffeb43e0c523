"""rank 0 keeps the state of everything, as `if rank:` is false there; only the others have shares."""

from minitrain.parallel.zero import GRADIENTS, PARAMETERS
from minitrain.shares import share


def zero1_step(w, g, group, update):
    group.all_reduce(g, GRADIENTS)
    mine = share(len(w), group.size, group.rank)
    if group.rank:
        update(w[mine], g[mine])
    else:
        update(w, g)
    group.all_gather(w, PARAMETERS)
