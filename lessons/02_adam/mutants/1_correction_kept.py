"""the corrected m and v are stored, and corrected again in the next update."""

from minitrain.backend import xp


def adam_step(w, g, m, v, t, lr, beta1, beta2, epsilon):
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * (g * g)
    m /= 1 - beta1**t
    v /= 1 - beta2**t
    w -= lr * m / (xp.sqrt(v) + epsilon)
