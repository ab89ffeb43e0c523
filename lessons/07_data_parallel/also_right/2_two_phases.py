"""Calls reduce-scatter and all-gather, the last gradient first."""

from minitrain.parallel.data_parallel import TAG


def sync_gradients(gradients, group):
    for gradient in reversed(gradients):
        group.reduce_scatter(gradient, TAG)
        group.all_gather(gradient, TAG)
