"""alpha and beta are swapped."""

import math


def equal_size(ranks, alpha, beta):
    levels = math.ceil(math.log2(ranks))
    return beta * (ranks - 1 - levels) / (alpha * (levels - (ranks - 1) / ranks))
