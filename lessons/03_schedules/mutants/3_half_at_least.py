"""the way down after a long warm-up is taken to start no later than halfway."""

import math


def halves(updates, warm, gamma, k):
    return {
        "linear": updates / 2,
        "cosine": updates / 2,
        "exponential": math.log(0.5) / math.log(gamma),
        "inverse_time": 1 / k,
        "warmup_cosine": min(warm, updates // 2) + (updates - min(warm, updates // 2)) / 2,
    }
