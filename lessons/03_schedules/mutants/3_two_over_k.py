"""k t is set to 2, instead of 1 + k t."""

import math


def halves(updates, warm, gamma, k):
    return {
        "linear": updates / 2,
        "cosine": updates / 2,
        "exponential": math.log(0.5) / math.log(gamma),
        "inverse_time": 2 / k,
        "warmup_cosine": warm + (updates - warm) / 2,
    }
