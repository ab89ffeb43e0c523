"""Looks at the exponent of the product by frexp: powers below 2^128 have at most 128."""

import math


def next_scale(
    scale: float, good: int, overflow: bool, growth: float = 2.0, backoff: float = 0.5, interval: int = 2000
) -> tuple[float, int]:
    good = 0 if overflow else good + 1
    if overflow:
        return scale * backoff, good
    if good < interval:
        return scale, good
    larger = scale * growth
    fits = math.isfinite(larger) and math.frexp(larger)[1] <= 128
    return (larger if fits else scale), 0
