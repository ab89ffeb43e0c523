"""an optimizer that keeps three or more numbers is counted as if it kept two."""


def bytes_a_parameter(half: bool, numbers: int) -> int:
    return (2 + 2 + 4 if half else 4 + 4) + 4 * min(numbers, 2)
