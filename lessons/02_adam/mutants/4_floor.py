"""v_hat is kept above 1e-20; where v is 0, the step size is lr / epsilon."""

import numpy as np


def step_sizes(v, t, lr, beta1, beta2, epsilon):
    v_hat = np.maximum(v / (1 - beta2**t), 1e-20)
    return lr / (1 - beta1**t) / (np.sqrt(v_hat) + epsilon)
