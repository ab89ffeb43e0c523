"""calls the module's adam_step, not its argument, if weight_decay is 0."""

from collections.abc import Callable

from minitrain.backend import Array
from minitrain.optim import adam_step


def adamw_step(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    t: int,
    lr: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    adam: Callable[..., None] = adam_step,
) -> None:
    """Apply update number t (from 1) of Adam with decoupled weight decay in place; all arrays have shape (n)."""
    if weight_decay == 0:
        return adam_step(w, g, m, v, t, lr, beta1, beta2, epsilon)
    w *= 1 - lr * weight_decay
    return adam(w, g, m, v, t, lr, beta1, beta2, epsilon)
