"""float32 gradients are rounded to half precision when they are sent."""

import numpy as np

from minitrain.parallel.data_parallel import TAG


def sync_gradients(gradients, group):
    for gradient in gradients:
        if gradient.dtype == np.float32:
            gradient[...] = gradient.astype(np.float16)
        group.all_reduce(gradient, TAG)
