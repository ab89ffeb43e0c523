"""half of it: the 2 stands in front of both times, so it cancels."""

import math


def equal_size(ranks, alpha, beta):
    levels = math.ceil(math.log2(ranks))
    return alpha * (ranks - 1 - levels) / (2 * beta * (levels - (ranks - 1) / ranks))
