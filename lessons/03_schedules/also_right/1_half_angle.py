"""Uses cos(x / 2)^2 for (1 + cos x) / 2, and scales the warm-up from what the decay begins with."""

import math

from minitrain.errors import UserError, check_whole


def warmup_cosine(t: int, peak: float, warm: int, updates: int, floor: float = 0.0) -> float:
    check_whole("t", t)
    check_whole("warm", warm)
    check_whole("updates", updates, 1)
    if not warm < updates:
        raise UserError(f"warm is {warm}; it must be less than updates, which is {updates}")
    if t >= updates:
        return float(floor)
    since = max(0, t - warm)
    rate = floor + (peak - floor) * math.cos(math.pi * since / (2 * (updates - warm))) ** 2
    return rate if t + 1 >= warm else rate * (t + 1) / warm
