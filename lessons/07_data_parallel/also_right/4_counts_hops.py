"""Counts every chunk's hops in both halves of the ring."""


def bytes_of_a_step(parameters: int, ranks: int) -> int:
    chunks = [parameters // ranks + (k < parameters % ranks) for k in range(ranks)]
    total = 0
    for _half in ("reduce-scatter", "all-gather"):
        for numbers in chunks:
            total += 4 * numbers * (ranks - 1)
    return total
