"""the warm-up uses t instead of t + 1: update 0 has the rate 0."""

import math

from minitrain.errors import UserError


def warmup_cosine(t, peak, warm, updates, floor=0.0):
    if warm >= updates:
        raise UserError("nothing is left for the cosine")
    if t < warm:
        return peak * (t / warm)
    progress = min(1.0, (t - warm) / (updates - warm))
    return floor + (peak - floor) * (1 + math.cos(math.pi * progress)) / 2
