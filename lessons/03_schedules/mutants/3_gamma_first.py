"""the logarithm of gamma is kept from the first call with these updates."""

import math

KEPT = {}


def halves(updates, warm, gamma, k):
    KEPT.setdefault((updates, warm), math.log(gamma))
    return {
        "linear": updates / 2,
        "cosine": updates / 2,
        "exponential": math.log(0.5) / KEPT[updates, warm],
        "inverse_time": 1 / k,
        "warmup_cosine": warm + (updates - warm) / 2,
    }
