"""a rank of a ring has two neighbours, but everything goes round until all ranks have it."""


def bytes_of_a_step(parameters: int, ranks: int) -> int:
    return 2 * 4 * parameters * min(ranks - 1, 2)
