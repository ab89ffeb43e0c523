"""one sum in float32 shows whether all numbers are finite; the factor of clipping joins that of S."""

import numpy as np

from minitrain.optim import adam_step


def half_step(
    data: np.ndarray, grad: np.ndarray, master: np.ndarray, m: np.ndarray, v: np.ndarray, t: int,
    S: float, lr: float, clip: float,
) -> int:  # fmt: skip
    total = grad.sum(dtype=np.float32)
    if not np.isfinite(total):
        return t
    length = float(np.linalg.norm(grad.astype(np.float32))) / S
    factor = (clip / length if length > clip else 1) / S
    adam_step(master, grad.astype(np.float32) * np.float32(factor), m, v, t + 1, lr, 0.9, 0.999, 1e-8)
    np.copyto(data, master, casting="same_kind")
    return t + 1
