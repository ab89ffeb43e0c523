"""gamma^t is set to 2 instead of 1/2, which gives a negative t."""

import math


def halves(updates, warm, gamma, k):
    return {
        "linear": updates / 2,
        "cosine": updates / 2,
        "exponential": math.log(2) / math.log(gamma),
        "inverse_time": 1 / k,
        "warmup_cosine": warm + (updates - warm) / 2,
    }
