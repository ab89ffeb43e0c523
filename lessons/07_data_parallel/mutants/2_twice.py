"""added up twice: the second sum is one of sums, N times too large."""

from minitrain.parallel.data_parallel import TAG


def sync_gradients(gradients, group):
    for gradient in gradients:
        group.all_reduce(gradient, TAG)
        group.all_reduce(gradient, TAG)
