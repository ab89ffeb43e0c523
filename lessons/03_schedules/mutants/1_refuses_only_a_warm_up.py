"""warm 0 of 0 updates leaves none for the cosine either, but raises no error."""

import math

from minitrain.errors import UserError


def warmup_cosine(t, peak, warm, updates, floor=0.0):
    if warm and warm >= updates:
        raise UserError("nothing is left for the cosine")
    if updates == 0:
        return floor
    progress = max(0, min(1.0, (t - warm) / (updates - warm)))
    fall = floor + (peak - floor) * (1 + math.cos(math.pi * progress)) / 2
    return fall * ((t + 1) / warm) if t < warm else fall
