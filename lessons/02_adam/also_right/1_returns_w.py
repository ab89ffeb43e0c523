"""changes the arrays in place, towards g, and returns them as well."""

import numpy as np


def adam_step(w, g, m, v, t, lr, beta1, beta2, epsilon):
    m += (1 - beta1) * (g - m)
    v += (1 - beta2) * (np.square(g) - v)
    rate = lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
    w[:] = w - rate * m / (np.sqrt(v) + epsilon * (1 - beta2**t) ** 0.5)
    return w, m, v
