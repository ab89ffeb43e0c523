"""a star's bytes for the root: the ring sends from every rank."""


def bytes_of_a_step(parameters: int, ranks: int) -> int:
    return (ranks - 1) * 4 * parameters * ranks
