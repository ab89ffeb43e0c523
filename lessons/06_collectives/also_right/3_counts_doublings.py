"""Counts the doublings in a loop, and multiplies the equation by N first."""


def equal_size(ranks: int, alpha: float, beta: float) -> float:
    doublings, reached = 0, 1
    while reached < ranks:
        reached, doublings = reached + reached, doublings + 1
    more_messages = ranks - 1 - doublings
    return max(0.0, ranks * more_messages * (alpha / beta) / (ranks * (doublings - 1) + 1))
