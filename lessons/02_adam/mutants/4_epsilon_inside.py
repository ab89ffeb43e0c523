"""epsilon is inside the square root."""

import numpy as np


def step_sizes(v: np.ndarray, t: int, lr: float, beta1: float, beta2: float, epsilon: float) -> np.ndarray:
    """Return what update t multiplies m by, for each coordinate: w -= step_sizes(v, ...) * m. Do not change v."""
    v_hat = v / (1 - beta2**t)
    return lr / (1 - beta1**t) / np.sqrt(v_hat + epsilon)
