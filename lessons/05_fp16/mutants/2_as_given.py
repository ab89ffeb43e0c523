"""as it was given: all mistakes are still there."""

import numpy as np

from minitrain.optim import adam_step


def half_step(
    data: np.ndarray, grad: np.ndarray, master: np.ndarray, m: np.ndarray, v: np.ndarray, t: int,
    S: float, lr: float, clip: float,
) -> int:  # fmt: skip
    """One update of weights in float16 by Adam, in place. Returns how many updates there were: t before this one.

    data, grad (n): the weights, and S times their gradient, in float16. master, m, v (n): the weights, and Adam's two
    numbers, in float32. The gradient is shortened to the length `clip` if it is longer. If a number of grad is inf or
    NaN, the step is skipped: everything stays as it is.
    """
    g = grad.astype(np.float32)
    if not np.isfinite(g).all():
        return t + 1
    length = np.linalg.norm(g)
    if length > clip:
        g *= clip / length
    g /= np.float32(S)
    master[...] = data
    adam_step(master, g, m, v, t + 1, lr, 0.9, 0.999, 1e-8)
    data[...] = master
    return t + 1
