"""N.bit_length() replaces the ceiling of log2 N: one too many where N is a power of two."""


def equal_size(ranks: int, alpha: float, beta: float) -> float:
    doublings = ranks.bit_length()
    later = ranks - 1 - doublings
    if later <= 0:
        return 0.0
    return later * alpha / ((doublings - (ranks - 1) / ranks) * beta)
