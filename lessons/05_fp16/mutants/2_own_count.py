"""a module variable counts the updates; the argument t is ignored."""

import numpy as np

from minitrain.optim import adam_step

UPDATES = [0]


def half_step(
    data: np.ndarray, grad: np.ndarray, master: np.ndarray, m: np.ndarray, v: np.ndarray, t: int,
    S: float, lr: float, clip: float,
) -> int:  # fmt: skip
    if t == 0:
        UPDATES[0] = 0
    g = grad.astype(np.float32) / np.float32(S)
    if not np.isfinite(g).all():
        return UPDATES[0]
    length = np.linalg.norm(g)
    if length > clip:
        g *= clip / length
    UPDATES[0] += 1
    adam_step(master, g, m, v, UPDATES[0], lr, 0.9, 0.999, 1e-8)
    data[...] = master
    return UPDATES[0]
