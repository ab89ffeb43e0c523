"""a master is needed only when the weights themselves are float16."""


def bytes_a_parameter(half: bool, numbers: int) -> int:
    return (2 + 2 if half else 4 + 4) + 4 + 4 * numbers
