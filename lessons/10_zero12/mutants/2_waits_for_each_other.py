"""every rank first waits for the shards of the others, and no rank sends one."""

from minitrain.parallel.zero import GRADIENTS, PARAMETERS
from minitrain.sharding import shard_of

SAYS = "waits in receive from rank"


def zero1_step(w, g, group, update):
    mine = shard_of(len(w), group.size, group.rank)
    update(w[mine], group.reduce_scatter(g, GRADIENTS))
    others = [rank for rank in range(group.size) if rank != group.rank]
    for other in others:
        group.receive(w[shard_of(len(w), group.size, other)], other, PARAMETERS)
    for other in others:
        group.send(w[mine], other, PARAMETERS).wait()
