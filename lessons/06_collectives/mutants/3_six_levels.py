"""six levels at most: right for up to 64 ranks."""

import math


def equal_size(ranks, alpha, beta):
    levels = min(math.ceil(math.log2(ranks)), 6)
    size = alpha * (ranks - 1 - levels) / (beta * (levels - (ranks - 1) / ranks))
    return size
