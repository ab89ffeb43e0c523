"""in update 1, m and v are assumed to be 0, whatever they are."""

from minitrain.backend import xp


def adam_step(w, g, m, v, t, lr, beta1, beta2, epsilon):
    if t == 1:
        m[...], v[...] = (1 - beta1) * g, (1 - beta2) * g * g
    else:
        m *= beta1
        m += (1 - beta1) * g
        v *= beta2
        v += (1 - beta2) * (g * g)
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    w -= lr * m_hat / (xp.sqrt(v_hat) + epsilon)
