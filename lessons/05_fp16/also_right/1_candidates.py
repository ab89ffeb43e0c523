"""Lists what the batch may lead to, best first, and takes the first that is allowed."""

import numpy as np


def next_scale(
    scale: float, good: int, overflow: bool, growth: float = 2.0, backoff: float = 0.5, interval: int = 2000
) -> tuple[float, int]:
    full = not overflow and good + 1 >= interval
    candidates = (
        (bool(overflow), scale * backoff, 0),
        (full and scale * growth < np.ldexp(1.0, 128), scale * growth, 0),
        (full, scale, 0),
        (True, scale, good + 1),
    )
    return next((value, count) for allowed, value, count in candidates if allowed)
