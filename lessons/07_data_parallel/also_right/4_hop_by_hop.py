"""Adds up the chunks that are sent, hop by hop."""


def bytes_of_a_step(parameters: int, ranks: int) -> int:
    chunks = [parameters // ranks + (k < parameters % ranks) for k in range(ranks)]
    return sum(4 * chunk for phase in range(2) for hop in range(ranks - 1) for chunk in chunks)
