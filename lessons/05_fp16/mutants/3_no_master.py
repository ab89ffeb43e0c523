"""the master is missing: with half, the optimizer also keeps the weights in float32."""


def bytes_a_parameter(half: bool, numbers: int) -> int:
    return (2 + 2 if half else 4 + 4) + 4 * numbers
