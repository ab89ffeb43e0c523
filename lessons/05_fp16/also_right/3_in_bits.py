"""counted in bits; the result is a float."""


def bytes_a_parameter(half: bool, numbers: int) -> int:
    bits = (16 + 16 + 32 if half else 32 + 32) + 32 * numbers
    return bits / 8
