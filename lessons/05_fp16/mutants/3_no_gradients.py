"""the gradients are missing."""


def bytes_a_parameter(half: bool, numbers: int) -> int:
    return (2 + 4 if half else 4) + 4 * numbers
