"""rank 0 keeps the whole state, because `if rank:` is false there; only the others have shards."""

from minitrain.parallel.zero import GRADIENTS, PARAMETERS
from minitrain.sharding import shard_of


def zero1_step(w, g, group, update):
    group.all_reduce(g, GRADIENTS)
    mine = shard_of(len(w), group.size, group.rank)
    if group.rank:
        update(w[mine], g[mine])
    else:
        update(w, g)
    group.all_gather(w, PARAMETERS)
