"""the bytes of one rank, not of all ranks together."""


def bytes_of_a_step(parameters: int, ranks: int) -> int:
    return 2 * (ranks - 1) * 4 * parameters // ranks
