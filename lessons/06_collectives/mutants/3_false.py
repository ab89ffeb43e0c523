"""where the ring is never slower, it returns False instead of 0."""

import math


def equal_size(ranks, alpha, beta):
    levels = math.ceil(math.log2(ranks))
    size = alpha * (ranks - 1 - levels) / (beta * (levels - (ranks - 1) / ranks))
    return size > 0 and size
