"""half the right size: the 2 is a factor of both times and cancels."""

import math


def equal_size(ranks, alpha, beta):
    levels = math.ceil(math.log2(ranks))
    return alpha * (ranks - 1 - levels) / (2 * beta * (levels - (ranks - 1) / ranks))
