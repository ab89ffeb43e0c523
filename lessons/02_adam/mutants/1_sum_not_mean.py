"""g is added to m without the factor 1 - beta1."""

from minitrain.backend import xp


def adam_step(w, g, m, v, t, lr, beta1, beta2, epsilon):
    m *= beta1
    m += g
    v *= beta2
    v += (1 - beta2) * (g * g)
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    w -= lr * m_hat / (xp.sqrt(v_hat) + epsilon)
