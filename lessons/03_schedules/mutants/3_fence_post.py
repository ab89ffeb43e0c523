"""the rate is taken to reach 0 at t = updates - 1; it reaches 0 at t = updates."""

import math


def halves(updates, warm, gamma, k):
    return {
        "linear": (updates - 1) / 2,
        "cosine": (updates - 1) / 2,
        "exponential": math.log(0.5) / math.log(gamma),
        "inverse_time": 1 / k,
        "warmup_cosine": warm + (updates - 1 - warm) / 2,
    }
