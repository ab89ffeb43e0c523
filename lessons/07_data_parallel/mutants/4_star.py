"""the bytes of a star's root: on a ring every rank sends."""


def bytes_of_a_step(parameters: int, ranks: int) -> int:
    return (ranks - 1) * 4 * parameters * ranks
