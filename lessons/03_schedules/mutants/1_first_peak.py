"""the peak of the first call is kept for all later calls."""

import math

from minitrain.errors import UserError

KEPT = {}


def warmup_cosine(t, peak, warm, updates, floor=0.0):
    if warm >= updates:
        raise UserError("nothing is left for the cosine")
    peak = KEPT.setdefault((warm, updates, floor), peak)
    progress = max(0, min(1.0, (t - warm) / (updates - warm)))
    fall = floor + (peak - floor) * (1 + math.cos(math.pi * progress)) / 2
    return fall * ((t + 1) / warm) if t < warm else fall
