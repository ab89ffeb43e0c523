"""it is rounded to a whole number: for that size the two times are not quite equal."""

import math


def equal_size(ranks, alpha, beta):
    levels = math.ceil(math.log2(ranks))
    return round(alpha * (ranks - 1 - levels) / (beta * (levels - (ranks - 1) / ranks)))
