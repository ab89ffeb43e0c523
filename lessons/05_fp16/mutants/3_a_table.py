"""a table of three optimizers, without an entry for others."""


def bytes_a_parameter(half: bool, numbers: int) -> int:
    return {0: 8, 1: 12, 2: 16}[numbers]
