"""half or not: the sum is the same."""


def bytes_a_parameter(half: bool, numbers: int) -> int:
    return 4 * (2 + numbers)
