"""a size below one byte becomes 1 byte."""

import math


def equal_size(ranks, alpha, beta):
    levels = math.ceil(math.log2(ranks))
    size = alpha * (ranks - 1 - levels) / (beta * (levels - (ranks - 1) / ranks))
    return max(size, 1) if size else 0.0
