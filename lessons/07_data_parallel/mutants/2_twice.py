"""summed twice: the second all-reduce adds sums, so the result is N times too large."""

from minitrain.parallel.data_parallel import TAG


def sync_gradients(gradients, group):
    for gradient in gradients:
        group.all_reduce(gradient, TAG)
        group.all_reduce(gradient, TAG)
