"""log2 N is not rounded up: a tree has a whole number of levels."""

import math


def equal_size(ranks, alpha, beta):
    levels = math.log2(ranks)
    return alpha * (ranks - 1 - levels) / (beta * (levels - (ranks - 1) / ranks))
