"""one new array is changed again and again."""

import numpy as np


def step_sizes(v, t, lr, beta1, beta2, epsilon):
    sizes = v / (1 - beta2**t)
    np.sqrt(sizes, out=sizes)
    sizes += epsilon
    np.divide(lr / (1 - beta1**t), sizes, out=sizes)
    return sizes
