"""1e-6 is added to the norm before dividing: a short gradient becomes much shorter than the limit."""

import numpy as np

from minitrain.optim import adam_step


def half_step(
    data: np.ndarray, grad: np.ndarray, master: np.ndarray, m: np.ndarray, v: np.ndarray, t: int,
    S: float, lr: float, clip: float,
) -> int:  # fmt: skip
    g = grad.astype(np.float32)
    if not np.isfinite(g).all():
        return t
    g /= np.float32(S)
    length = np.linalg.norm(g)
    if length > clip:
        g *= clip / (length + 1e-6)
    adam_step(master, g, m, v, t + 1, lr, 0.9, 0.999, 1e-8)
    data[...] = master
    return t + 1
