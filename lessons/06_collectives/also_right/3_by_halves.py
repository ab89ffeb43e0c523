"""The size is looked for by halving an interval, as the two formulas are given; NumPy's number is returned."""

import numpy as np


def equal_size(ranks, alpha, beta):
    levels = np.ceil(np.log2(ranks))
    tree = lambda M: 2 * levels * (alpha + M * beta)
    ring = lambda M: 2 * (ranks - 1) * alpha + 2 * (ranks - 1) / ranks * M * beta
    if tree(0) >= ring(0):
        return np.float64(0)
    low, high = np.float64(0), alpha / beta
    while tree(high) < ring(high):
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if tree(middle) < ring(middle) else (low, middle)
    return high
