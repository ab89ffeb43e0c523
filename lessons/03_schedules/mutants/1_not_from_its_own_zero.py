"""the cosine counts from t instead of its own update 0: the rate jumps at the join."""

import math

from minitrain.errors import UserError


def warmup_cosine(t, peak, warm, updates, floor=0.0):
    if warm >= updates:
        raise UserError("nothing is left for the cosine")
    if t < warm:
        return peak * ((t + 1) / warm)
    return floor + (peak - floor) * (1 + math.cos(math.pi * min(1.0, t / updates))) / 2
