"""the optimizer's numbers are float32 even if the weights are float16."""


def bytes_a_parameter(half: bool, numbers: int) -> int:
    return 2 + 2 + 4 + 2 * numbers if half else 4 + 4 + 4 * numbers
