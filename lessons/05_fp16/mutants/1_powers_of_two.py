"""S is rounded to a power of two, even if growth or backoff is not one."""

import math


def next_scale(scale, good, overflow, growth=2.0, backoff=0.5, interval=2000):
    if overflow:
        return 2.0 ** math.floor(math.log2(scale * backoff)), 0
    if good + 1 < interval:
        return scale, good + 1
    return (2.0 ** math.floor(math.log2(scale * growth)) if scale * growth < 2.0**128 else scale), 0
