"""numbers are counted, not bytes: a float32 has 4 bytes."""


def bytes_of_a_step(parameters: int, ranks: int) -> int:
    return 2 * (ranks - 1) * parameters
