"""0.9 and 0.999 are hard-coded, but beta1 and beta2 vary."""

import numpy as np


def step_sizes(v, t, lr, beta1, beta2, epsilon):
    v_hat = v / (1 - 0.999**t)
    return lr / (1 - 0.9**t) / (np.sqrt(v_hat) + epsilon)
