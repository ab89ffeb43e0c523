"""the formulas are not solved: the t are found by bisection."""

import math


def halves(updates, warm, gamma, k):
    rates = {
        "linear": lambda t: 1 - t / updates,
        "cosine": lambda t: (1 + math.cos(math.pi * min(1, t / updates))) / 2,
        "exponential": lambda t: gamma**t,
        "inverse_time": lambda t: 1 / (1 + k * t),
        "warmup_cosine": lambda t: (1 + math.cos(math.pi * min(1, max(0, t - warm) / (updates - warm)))) / 2,
    }
    return {name: solve(rate) for name, rate in rates.items()}


def solve(rate):
    low, high = 0.0, 1.0
    while rate(high) > 0.5:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if rate(middle) > 0.5 else (low, middle)
    return low
