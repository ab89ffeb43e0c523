"""Adds up the three kinds; whole numbers stay whole."""


def bytes_of_a_rank(parameters, ranks, stage, each=(2, 2, 12)):
    total = 0
    for size, first in zip(each, (3, 2, 1), strict=True):
        piece = size * parameters
        if stage >= first:
            piece = piece // ranks if piece % ranks == 0 else piece / ranks
        total += piece
    return total
