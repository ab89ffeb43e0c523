"""8 bytes per parameter: that is float64."""


def bytes_of_a_step(parameters: int, ranks: int) -> int:
    return 2 * (ranks - 1) * 8 * parameters
