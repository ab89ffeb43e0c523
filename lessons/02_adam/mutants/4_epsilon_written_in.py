"""epsilon is hard-coded, but it varies."""

import numpy as np


def step_sizes(v, t, lr, beta1, beta2, epsilon):
    v_hat = v / (1 - beta2**t)
    return lr / (1 - beta1**t) / (np.sqrt(v_hat) + 1e-8)
