"""a table of three optimizers; others have no entry."""


def bytes_a_parameter(half: bool, numbers: int) -> int:
    return {0: 8, 1: 12, 2: 16}[numbers]
