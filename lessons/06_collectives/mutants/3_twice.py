"""twice the right size: the 2 is a factor of both times and cancels."""

import math


def equal_size(ranks, alpha, beta):
    levels = math.ceil(math.log2(ranks))
    return 2 * alpha * (ranks - 1 - levels) / (beta * (levels - (ranks - 1) / ranks))
