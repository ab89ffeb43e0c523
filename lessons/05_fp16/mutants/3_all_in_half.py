"""everything is halved; but the optimizer works in float32 and keeps a master."""


def bytes_a_parameter(half: bool, numbers: int) -> int:
    return (2 if half else 4) * (2 + numbers)
