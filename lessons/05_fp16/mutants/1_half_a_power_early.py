"""whether S may grow is asked of logarithms, and half a power too early."""

from math import log2


def next_scale(scale, good, overflow, growth=2.0, backoff=0.5, interval=2000):
    if overflow:
        return scale * backoff, 0
    if good + 1 < interval:
        return scale, good + 1
    return (scale * growth if log2(scale) + log2(growth) < 127.5 else scale), 0
