"""Writes the rates of the whole run into a list and looks t up; the last entry is for all t after it."""

import math

from minitrain.errors import UserError, check_whole


def warmup_cosine(t: int, peak: float, warm: int, updates: int, floor: float = 0.0) -> float:
    check_whole("t", t)
    check_whole("warm", warm)
    check_whole("updates", updates, 1)
    if updates - warm < 1:
        raise UserError(f"warm is {warm} of {updates} updates; it must leave at least one for the decay")
    n = updates - warm
    down = [floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi / n * i)) for i in range(n)]
    up = [down[0] * (i / warm) for i in range(1, warm + 1)]
    return (up + down + [float(floor)])[min(t, updates)]
