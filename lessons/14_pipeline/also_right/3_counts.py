"""Counts up until it is enough, in fractions."""

from fractions import Fraction
from itertools import count


def micro_batches(p, percent):
    return next(m for m in count(1) if Fraction(p - 1, m + p - 1) <= Fraction(percent, 100))
