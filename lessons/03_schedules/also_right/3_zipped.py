"""the peak is half where the logarithm to the base 1 / gamma is that of 2; all else is a product."""

import math


def halves(updates, warm, gamma, k):
    names = ("linear", "cosine", "exponential", "inverse_time", "warmup_cosine")
    at = (0.5 * updates, 0.5 * updates, math.log(2, 1 / gamma), k**-1, 0.5 * (updates + warm))
    return dict(zip(names, at, strict=True))
