"""rounds each rank's bytes down before it adds the ranks up."""


def bytes_of_a_step(parameters: int, ranks: int) -> int:
    one = 2 * (ranks - 1) * 4 * parameters // ranks
    return one * ranks
