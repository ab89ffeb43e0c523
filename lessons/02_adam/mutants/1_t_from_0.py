"""t is counted from 0, as t - 1, so the first divisors are 0."""

from minitrain.backend import xp


def adam_step(w, g, m, v, t, lr, beta1, beta2, epsilon):
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * (g * g)
    m_hat, v_hat = m / (1 - beta1 ** (t - 1)), v / (1 - beta2 ** (t - 1))
    w -= lr * m_hat / (xp.sqrt(v_hat) + epsilon)
