"""the step is added to the float16 weights instead of rounding the master to them: small steps are lost."""

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
        g *= clip / length
    before = master.copy()
    adam_step(master, g, m, v, t + 1, lr, 0.9, 0.999, 1e-8)
    data += (master - before).astype(data.dtype)
    return t + 1
