"""Does not look at `half`: the master takes what weight and gradient save."""


def bytes_a_parameter(half: bool, numbers: int) -> int:
    return (numbers + 2) << 2
