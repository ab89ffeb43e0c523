"""the result is a number, not an array."""

import numpy as np


def step_sizes(v, t, lr, beta1, beta2, epsilon):
    sizes = lr / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
    return sizes.item() if sizes.size == 1 else sizes
