"""the master is counted only if there is optimizer state: wrong for plain SGD."""


def bytes_a_parameter(half: bool, numbers: int) -> int:
    stored = 2 if half else 4
    state = 4 * (numbers + half) if numbers else 0
    return stored + stored + state
