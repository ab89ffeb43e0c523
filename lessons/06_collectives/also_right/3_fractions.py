"""Solves the two equal times exactly, with fractions, and rounds once at the end."""

from fractions import Fraction


def equal_size(ranks: int, alpha: float, beta: float) -> float:
    n, a, b = int(ranks), Fraction(float(alpha)), Fraction(float(beta))
    tree = 2 * (n - 1).bit_length()
    ring = 2 * (n - 1)
    fixed = (ring - tree) * a
    growing = (tree - Fraction(ring, n)) * b
    return float(fixed / growing) if fixed > 0 else 0.0
