"""results are cached by t, peak, warm and updates, but not by floor."""

import math

from minitrain.errors import UserError

KEPT = {}


def warmup_cosine(t, peak, warm, updates, floor=0.0):
    if warm >= updates:
        raise UserError("nothing is left for the cosine")
    if (t, peak, warm, updates) not in KEPT:
        KEPT[t, peak, warm, updates] = rate(t, peak, warm, updates, floor)
    return KEPT[t, peak, warm, updates]


def rate(t, peak, warm, updates, floor):
    progress = max(0, min(1.0, (t - warm) / (updates - warm)))
    fall = floor + (peak - floor) * (1 + math.cos(math.pi * progress)) / 2
    return fall * ((t + 1) / warm) if t < warm else fall
