"""each rate is computed from the one before, by recursion: too deep for Python at late updates."""

import math

from minitrain.errors import UserError


def warmup_cosine(t, peak, warm, updates, floor=0.0):
    if warm >= updates:
        raise UserError("nothing is left for the cosine")
    if t > updates:
        return warmup_cosine(t - 1, peak, warm, updates, floor)
    progress = max(0, min(1.0, (t - warm) / (updates - warm)))
    fall = floor + (peak - floor) * (1 + math.cos(math.pi * progress)) / 2
    return fall * ((t + 1) / warm) if t < warm else fall
