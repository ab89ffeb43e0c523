"""divided by the number of ranks (the loss is already divided by the global batch)."""

from minitrain.parallel.data_parallel import TAG


def sync_gradients(gradients, group):
    for gradient in gradients:
        group.all_reduce(gradient, TAG)
        gradient /= group.size
