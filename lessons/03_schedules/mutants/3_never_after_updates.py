"""the answers are limited to the end of the run; those of exponential and inverse_time may be later."""

import math


def halves(updates, warm, gamma, k):
    times = {
        "linear": updates / 2,
        "cosine": updates / 2,
        "exponential": math.log(0.5) / math.log(gamma),
        "inverse_time": 1 / k,
        "warmup_cosine": warm + (updates - warm) / 2,
    }
    return {name: min(t, updates) for name, t in times.items()}
