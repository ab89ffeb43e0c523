"""The corrections from expm1 and log instead of a power (beta = 0 apart)."""

import math

from minitrain.backend import Array, xp


def correction(beta: float, t: int) -> float:
    """1 - beta^t."""
    return -math.expm1(t * math.log(beta)) if beta > 0 else 1.0


def adam_step(
    w: Array, g: Array, m: Array, v: Array, t: int, lr: float, beta1: float, beta2: float, epsilon: float
) -> None:
    """Apply update number t (from 1) of Adam in place to w, m and v, all of shape (n). Do not change g."""
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * g * g
    denominator = xp.sqrt(v)
    denominator *= 1 / math.sqrt(correction(beta2, t))
    denominator += epsilon
    w -= (lr / correction(beta1, t)) * (m / denominator)
