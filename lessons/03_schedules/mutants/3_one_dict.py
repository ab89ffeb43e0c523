"""all calls return the same dictionary, so later calls change earlier results."""

import math

FOUND = {}


def halves(updates, warm, gamma, k):
    FOUND.update(
        {
            "linear": updates / 2,
            "cosine": updates / 2,
            "exponential": math.log(0.5) / math.log(gamma),
            "inverse_time": 1 / k,
            "warmup_cosine": warm + (updates - warm) / 2,
        }
    )
    return FOUND
