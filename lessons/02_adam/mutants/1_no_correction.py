"""m and v are not corrected for starting at 0."""

from minitrain.backend import xp


def adam_step(w, g, m, v, t, lr, beta1, beta2, epsilon):
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * (g * g)
    w -= lr * m / (xp.sqrt(v) + epsilon)
