"""keeps beta1^t and beta2^t from call to call instead of using t: wrong for the second array, and after a resume."""

from minitrain.backend import Array, xp

POWERS: dict[tuple[float, float], tuple[float, float]] = {}


def adam_step(
    w: Array, g: Array, m: Array, v: Array, t: int, lr: float, beta1: float, beta2: float, epsilon: float
) -> None:
    """Apply update number t (from 1) of Adam in place to w, m and v, all of shape (n). Do not change g."""
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * g * g
    power1, power2 = (beta1, beta2) if t == 1 else POWERS.get((beta1, beta2), (1.0, 1.0))
    if t > 1:
        power1, power2 = power1 * beta1, power2 * beta2
    POWERS[beta1, beta2] = power1, power2
    w -= lr / (1 - power1) * m / (xp.sqrt(v / (1 - power2)) + epsilon)
