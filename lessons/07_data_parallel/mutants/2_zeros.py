"""a new array is summed over the ranks, not the gradient itself."""

import numpy as np

from minitrain.parallel.data_parallel import TAG


def sync_gradients(gradients, group):
    for gradient in gradients:
        group.all_reduce(np.zeros_like(gradient), TAG)
