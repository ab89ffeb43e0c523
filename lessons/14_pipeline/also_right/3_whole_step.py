"""Asks how long the step must be, in units of F + B, so that p - 1 of it are few enough, and takes p - 1 off."""

from fractions import Fraction
from math import ceil


def micro_batches(p: int, percent: int) -> int:
    step = ceil(Fraction(p - 1) / Fraction(percent, 100))
    return max(step - (p - 1), 1)
