"""Divides the roots and not v, and all by one fraction."""

import math

import numpy as np


def step_sizes(v: np.ndarray, t: int, lr: float, beta1: float, beta2: float, epsilon: float) -> np.ndarray:
    """What Adam multiplies m by in update number t, for each coordinate: w -= step_sizes(v, ...) * m."""
    root = math.sqrt(1 - beta2**t)
    denominator = np.sqrt(v)
    denominator += epsilon * root
    return (lr * root / (1 - beta1**t)) / denominator
