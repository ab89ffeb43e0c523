"""the size is rounded to a whole number, for which the two times differ slightly."""

import math


def equal_size(ranks, alpha, beta):
    levels = math.ceil(math.log2(ranks))
    return round(alpha * (ranks - 1 - levels) / (beta * (levels - (ranks - 1) / ranks)))
