"""A helper class keeps the scalars; the arrays are updated in pieces of 1000 elements, with one scratch array."""

import math

from minitrain.backend import Array, xp


class Scalars:
    """What is the same for all elements of an update."""

    def __init__(self, t: int, lr: float, beta1: float, beta2: float) -> None:
        self.rate = lr / (1 - beta1**t)
        self.root = math.sqrt(1 - beta2**t)


def adam_step(
    w: Array, g: Array, m: Array, v: Array, t: int, lr: float, beta1: float, beta2: float, epsilon: float
) -> None:
    """Apply update number t (from 1) of Adam in place to w, m and v, all of shape (n). Do not change g."""
    now = Scalars(t, lr, beta1, beta2)
    for low in range(0, w.size, 1000):
        part = slice(low, low + 1000)
        scratch = xp.array(g[part], m.dtype)
        scratch *= 1 - beta1
        m[part] *= beta1
        m[part] += scratch
        xp.multiply(g[part], g[part], out=scratch)
        scratch *= 1 - beta2
        v[part] *= beta2
        v[part] += scratch
        xp.sqrt(v[part], out=scratch)
        scratch /= now.root
        scratch += epsilon
        xp.divide(m[part], scratch, out=scratch)
        scratch *= now.rate
        w[part] -= scratch
