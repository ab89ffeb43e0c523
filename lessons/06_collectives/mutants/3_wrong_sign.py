"""wrong sign: a term that moves to the other side changes its sign."""

import math


def equal_size(ranks, alpha, beta):
    levels = math.ceil(math.log2(ranks))
    return alpha * (levels - ranks + 1) / (beta * (levels - (ranks - 1) / ranks))
