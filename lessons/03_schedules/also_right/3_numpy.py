"""NumPy's numbers, of which those of whole type are no Python int."""

import numpy as np


def halves(updates, warm, gamma, k):
    half = lambda n: np.int64(n // 2) if n % 2 == 0 else np.float64(n / 2)
    return {
        "linear": half(updates),
        "cosine": half(updates),
        "exponential": -1 / np.log2(gamma),
        "inverse_time": np.divide(1, k),
        "warmup_cosine": warm + half(updates - warm),
    }
