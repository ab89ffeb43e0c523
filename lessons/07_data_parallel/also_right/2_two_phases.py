"""Calls reduce-scatter and all-gather, the last gradient first."""

from minitrain.parallel.data_parallel import TAG


def sync_gradients(gradients, group, shards=None):
    for gradient in reversed(gradients):
        group.reduce_scatter(gradient, TAG, shards)
        group.all_gather(gradient, TAG, shards)
