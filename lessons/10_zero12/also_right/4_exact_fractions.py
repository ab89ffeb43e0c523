"""Saves stage by stage, with exact fractions, what the next part no longer takes."""

from fractions import Fraction


def bytes_of_a_rank(parameters: float, ranks: int, stage: int, each: tuple[float, float, float] = (2, 2, 12)) -> float:
    held = sum(map(Fraction, each))
    for size in [each[2], each[1], each[0]][:stage]:
        held -= Fraction(size) * (1 - Fraction(1, ranks))
    return float(Fraction(parameters) * held)
