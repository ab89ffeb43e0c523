"""the corrections are scalars, which saves a pass over the array."""

import numpy as np


def step_sizes(v, t, lr, beta1, beta2, epsilon):
    root = (1 - beta2**t) ** 0.5
    return lr * root / (1 - beta1**t) / (np.sqrt(v) + epsilon * root)
