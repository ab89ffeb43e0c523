"""a sum of grad in float16 tests for inf and NaN; large finite numbers overflow it and are skipped."""

import numpy as np

from minitrain.optim import adam_step


def half_step(
    data: np.ndarray, grad: np.ndarray, master: np.ndarray, m: np.ndarray, v: np.ndarray, t: int,
    S: float, lr: float, clip: float,
) -> int:  # fmt: skip
    with np.errstate(over="ignore"):
        if not np.isfinite(grad.sum()):
            return t
    g = grad.astype(np.float32) / np.float32(S)
    length = np.linalg.norm(g)
    if length > clip:
        g *= clip / length
    adam_step(master, g, m, v, t + 1, lr, 0.9, 0.999, 1e-8)
    data[...] = master
    return t + 1
