"""the rate is at 0 at t = updates, not at updates - 1."""

import math


def halves(updates, warm, gamma, k):
    return {
        "linear": (updates - 1) / 2,
        "cosine": (updates - 1) / 2,
        "exponential": math.log(0.5) / math.log(gamma),
        "inverse_time": 1 / k,
        "warmup_cosine": warm + (updates - 1 - warm) / 2,
    }
