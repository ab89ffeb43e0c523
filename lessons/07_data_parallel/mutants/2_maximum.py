"""the element-wise maximum over ranks is taken, not the sum."""

from minitrain.parallel.data_parallel import TAG


def sync_gradients(gradients, group):
    for gradient in gradients:
        group.all_reduce(gradient, TAG, op="max")
