"""all is computed in float64; Adam is written out."""

import numpy as np


def half_step(
    data: np.ndarray, grad: np.ndarray, master: np.ndarray, m: np.ndarray, v: np.ndarray, t: int,
    S: float, lr: float, clip: float,
) -> int:  # fmt: skip
    g = grad.astype(float) / S
    if np.isnan(g).any() or np.isinf(g).any():
        return t
    g *= min(1.0, clip / max(np.sqrt((g**2).sum()), 1e-300))
    m[:] = 0.9 * m + 0.1 * g
    v[:] = 0.999 * v + 0.001 * g**2
    t += 1
    master -= lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    data[:] = master.astype(np.float16)
    return t
