"""Counts the numbers that are not finite, and takes the length by math.hypot over all elements."""

import math

import numpy as np

from minitrain.optim import adam_step


def half_step(
    data: np.ndarray, grad: np.ndarray, master: np.ndarray, m: np.ndarray, v: np.ndarray, t: int,
    S: float, lr: float, clip: float,
) -> int:  # fmt: skip
    if np.count_nonzero(~np.isfinite(grad)):
        return t
    number = t + 1
    g = np.divide(grad, np.float32(S), dtype=np.float32)
    length = math.hypot(*g.tolist())
    if length > clip:
        g = (g.astype(np.float64) * (clip / length)).astype(np.float32)
    adam_step(master, g, m, v, number, lr, 0.9, 0.999, 1e-8)
    data[:] = master.astype(np.float16)
    return number
