"""gamma t is set to 1/2, instead of gamma to the power t."""


def halves(updates, warm, gamma, k):
    return {
        "linear": updates / 2,
        "cosine": updates / 2,
        "exponential": 0.5 / gamma,
        "inverse_time": 1 / k,
        "warmup_cosine": warm + (updates - warm) / 2,
    }
