"""the floor is divided by the peak, which may be 0."""

import math

from minitrain.errors import UserError


def warmup_cosine(t, peak, warm, updates, floor=0.0):
    if warm >= updates:
        raise UserError("nothing is left for the cosine")
    progress = max(0, min(1.0, (t - warm) / (updates - warm)))
    low = floor / peak
    fall = peak * (low + (1 - low) * (1 + math.cos(math.pi * progress)) / 2)
    return fall * ((t + 1) / warm) if t < warm else fall
