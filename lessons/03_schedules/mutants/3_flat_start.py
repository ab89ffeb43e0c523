"""cos(pi t / T) is set to 1/2; but it is 1 + cos(pi t / T) that must be half of its maximum, 2."""

import math


def halves(updates, warm, gamma, k):
    return {
        "linear": updates / 2,
        "cosine": updates / 3,
        "exponential": math.log(0.5) / math.log(gamma),
        "inverse_time": 1 / k,
        "warmup_cosine": warm + (updates - warm) / 3,
    }
