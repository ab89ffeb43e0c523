"""one mistake is left: what happens when a batch is skipped."""

import numpy as np

from minitrain.optim import adam_step


def half_step(
    data: np.ndarray, grad: np.ndarray, master: np.ndarray, m: np.ndarray, v: np.ndarray, t: int,
    S: float, lr: float, clip: float,
) -> int:  # fmt: skip
    """Update float16 weights in place by Adam. Return the new number of updates; t is the number before this one.

    data, grad (n), float16: the weights, and S times their gradient. master, m, v (n), float32: the weights and Adam's
    m and v. S: the loss scale. lr: the learning rate. clip: the largest norm; a gradient, without S, that is longer is
    shortened to it. If grad contains inf or NaN, skip the step and change nothing; otherwise grad may end with any
    values.
    """
    g = grad.astype(np.float32) / np.float32(S)
    if not np.isfinite(g).all():
        return t + 1
    length = np.linalg.norm(g)
    if length > clip:
        g *= clip / length
    adam_step(master, g, m, v, t + 1, lr, 0.9, 0.999, 1e-8)
    data[...] = master
    return t + 1
