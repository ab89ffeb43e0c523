"""a reduce-scatter alone: each rank has the sum in its own shard only, and the shards are not gathered."""

from minitrain.parallel.data_parallel import TAG


def sync_gradients(gradients, group):
    for gradient in gradients:
        group.reduce_scatter(gradient, TAG)
