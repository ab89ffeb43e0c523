"""Finds each t by bisection on the rate itself, with no formula solved for t."""

import math
from collections.abc import Callable


def _half(rate: Callable[[float], float], low: float) -> float:
    """The t after `low` at which a falling rate, 1 at `low`, is 1/2."""
    high = low + 1.0
    while rate(high) > 0.5:
        high = low + 2 * (high - low)
    for _ in range(200):
        middle = low + (high - low) / 2
        low, high = (middle, high) if rate(middle) > 0.5 else (low, middle)
    return high


def halves(updates: int, warm: int, gamma: float, k: float) -> dict[str, float]:
    def falling(t: float, n: int) -> float:
        return (1 + math.cos(math.pi * min(1.0, t / n))) / 2

    return {
        "linear": _half(lambda t: 1 - t / updates, 0.0),
        "cosine": _half(lambda t: falling(t, updates), 0.0),
        "exponential": _half(lambda t: gamma**t, 0.0),
        "inverse_time": _half(lambda t: 1 / (1 + k * t), 0.0),
        "warmup_cosine": _half(lambda t: falling(t - warm, updates - warm), float(warm)),
    }
