"""the loop ends at the first gradient that is zero on all ranks; those after it are not summed."""

from minitrain.parallel.data_parallel import TAG


def sync_gradients(gradients, group):
    for gradient in gradients:
        group.all_reduce(gradient, TAG)
        if not gradient.any():
            return
