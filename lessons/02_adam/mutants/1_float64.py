"""the arrays are converted to float64 first, so float32 arrays stay unchanged."""

import numpy as np

from minitrain.backend import xp


def adam_step(w, g, m, v, t, lr, beta1, beta2, epsilon):
    w, g, m, v = (np.asarray(x, np.float64) for x in (w, g, m, v))
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * (g * g)
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    w -= lr * m_hat / (xp.sqrt(v_hat) + epsilon)
