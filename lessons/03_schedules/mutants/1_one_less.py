"""the cosine reaches the floor one update early (T - 1 instead of T)."""

import math

from minitrain.errors import UserError


def warmup_cosine(t, peak, warm, updates, floor=0.0):
    if warm >= updates:
        raise UserError("nothing is left for the cosine")
    if t < warm:
        return peak * ((t + 1) / warm)
    progress = min(1.0, (t - warm) / max(1, updates - warm - 1))
    return floor + (peak - floor) * (1 + math.cos(math.pi * progress)) / 2
