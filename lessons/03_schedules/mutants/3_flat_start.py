"""cos(pi t / T) is set to 1/2; where 1 + cos is half of its largest value, 2, it is something else."""

import math


def halves(updates, warm, gamma, k):
    return {
        "linear": updates / 2,
        "cosine": updates / 3,
        "exponential": math.log(0.5) / math.log(gamma),
        "inverse_time": 1 / k,
        "warmup_cosine": warm + (updates - warm) / 3,
    }
