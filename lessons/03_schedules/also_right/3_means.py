"""Writes the middles as means of the ends, and the exponential with logarithms to the base 2."""

import math


def halves(updates: int, warm: int, gamma: float, k: float) -> dict[str, float]:
    middle = lambda *ends: sum(ends) / len(ends)
    found = dict.fromkeys(("cosine", "linear"), middle(0, updates))
    found |= {"inverse_time": k**-1.0, "warmup_cosine": middle(warm, updates)}
    return {**found, "exponential": -1.0 / math.log2(gamma)}
