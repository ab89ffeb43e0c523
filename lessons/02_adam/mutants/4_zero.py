"""where v is 0, the step size is taken to be 0; it is lr / epsilon."""

import numpy as np


def step_sizes(v, t, lr, beta1, beta2, epsilon):
    sizes = lr / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
    return np.where(v > 0, sizes, 0.0)
