"""coordinates whose gradient is 0 are skipped, but m and v must decay and the step continues."""

from minitrain.backend import xp


def adam_step(w, g, m, v, t, lr, beta1, beta2, epsilon):
    on = g != 0
    m[on] = beta1 * m[on] + (1 - beta1) * g[on]
    v[on] = beta2 * v[on] + (1 - beta2) * g[on] * g[on]
    m_hat, v_hat = m[on] / (1 - beta1**t), v[on] / (1 - beta2**t)
    w[on] -= lr * m_hat / (xp.sqrt(v_hat) + epsilon)
