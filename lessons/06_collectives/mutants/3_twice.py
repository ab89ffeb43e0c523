"""twice as large: the 2 stands in front of both times, so it cancels."""

import math


def equal_size(ranks, alpha, beta):
    levels = math.ceil(math.log2(ranks))
    return 2 * alpha * (ranks - 1 - levels) / (beta * (levels - (ranks - 1) / ranks))
