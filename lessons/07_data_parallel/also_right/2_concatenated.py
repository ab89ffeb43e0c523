"""Lays the gradients end to end and adds them up at once; returns them."""

import numpy as np

from minitrain.parallel.data_parallel import TAG


def sync_gradients(gradients, group):
    flat = np.concatenate(gradients)
    group.all_reduce(flat, TAG)
    for gradient, new in zip(gradients, np.split(flat, np.cumsum([len(g) for g in gradients])[:-1])):
        gradient[:] = new
    return gradients
