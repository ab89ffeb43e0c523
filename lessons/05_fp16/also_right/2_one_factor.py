"""Measures S times the gradient in float64, and divides by S and clips with one multiplication there."""

import numpy as np

from minitrain.optim import adam_step


def half_step(
    data: np.ndarray, grad: np.ndarray, master: np.ndarray, m: np.ndarray, v: np.ndarray, t: int,
    S: float, lr: float, clip: float,
) -> int:  # fmt: skip
    if not np.abs(grad).max(initial=0) < np.inf:
        return t
    wide = grad.astype(np.float64)
    length = float(np.sqrt(wide @ wide)) / S
    factor = clip / length if length > clip else 1.0
    g = (wide * (factor / S)).astype(np.float32)
    adam_step(master, g, m, v, t + 1, lr, 0.9, 0.999, 1e-8)
    np.copyto(data, master, casting="same_kind")
    return t + 1
