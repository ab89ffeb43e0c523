"""epsilon is added before v is corrected (the paper's epsilon hat)."""

from minitrain.backend import xp


def adam_step(w, g, m, v, t, lr, beta1, beta2, epsilon):
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * (g * g)
    w -= lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t) * m / (xp.sqrt(v) + epsilon)
