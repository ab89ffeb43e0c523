"""a loop over the elements."""

import math


def adam_step(w, g, m, v, t, lr, beta1, beta2, epsilon):
    for i in range(len(w)):
        m[i] = beta1 * m[i] + (1 - beta1) * g[i]
        v[i] = beta2 * v[i] + (1 - beta2) * g[i] ** 2
        m_hat = m[i] / (1 - beta1**t)
        v_hat = v[i] / (1 - beta2**t)
        w[i] -= lr * m_hat / (math.sqrt(v_hat) + epsilon)
