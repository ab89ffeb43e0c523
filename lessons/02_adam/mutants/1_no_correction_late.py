"""both corrections are left out after 1000 updates, as if they were 1 by then."""

from minitrain.backend import Array, xp


def adam_step(
    w: Array, g: Array, m: Array, v: Array, t: int, lr: float, beta1: float, beta2: float, epsilon: float
) -> None:
    """Apply update number t (from 1) of Adam in place to w, m and v, all of shape (n). Do not change g."""
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * g * g
    bias1, bias2 = (1 - beta1**t, 1 - beta2**t) if t <= 1000 else (1.0, 1.0)
    w -= lr / bias1 * m / (xp.sqrt(v / bias2) + epsilon)
