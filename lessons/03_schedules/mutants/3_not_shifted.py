"""t is counted from the end of the warm-up; count it from update 0."""

import math


def halves(updates, warm, gamma, k):
    return {
        "linear": updates / 2,
        "cosine": updates / 2,
        "exponential": math.log(0.5) / math.log(gamma),
        "inverse_time": 1 / k,
        "warmup_cosine": (updates - warm) / 2,
    }
