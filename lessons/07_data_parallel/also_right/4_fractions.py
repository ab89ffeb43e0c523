"""N ranks send 2 (N - 1) / N of the model each: a float, rounded in its last digit."""


def bytes_of_a_step(parameters: int, ranks: int) -> float:
    return ranks * (2 * (ranks - 1) / ranks * 4 * parameters)
