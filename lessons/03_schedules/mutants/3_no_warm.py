"""the warm-up is ignored, as if the cosine started at update 0 and spanned all updates."""

import math


def halves(updates, warm, gamma, k):
    return {
        "linear": updates / 2,
        "cosine": updates / 2,
        "exponential": math.log(0.5) / math.log(gamma),
        "inverse_time": 1 / k,
        "warmup_cosine": updates / 2,
    }
