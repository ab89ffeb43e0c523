"""epsilon is added before v is corrected (the paper's epsilon hat)."""

import numpy as np


def step_sizes(v: np.ndarray, t: int, lr: float, beta1: float, beta2: float, epsilon: float) -> np.ndarray:
    """Return what update t multiplies m by, for each coordinate: w -= step_sizes(v, ...) * m."""
    return lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t) / (np.sqrt(v) + epsilon)
