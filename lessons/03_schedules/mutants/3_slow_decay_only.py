"""log(gamma) is replaced by -(1 - gamma), which is close only for gamma near 1."""

import math


def halves(updates: int, warm: int, gamma: float, k: float) -> dict[str, float]:
    return {
        "linear": updates / 2,
        "exponential": math.log(2) / (1 - gamma),
        "inverse_time": 1 / k,
        "cosine": updates / 2,
        "warmup_cosine": warm + (updates - warm) / 2,
    }
