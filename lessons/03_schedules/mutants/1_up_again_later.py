"""the rate stays at the floor for one more run, and then the cosine rises again."""

import math

from minitrain.errors import UserError


def warmup_cosine(t, peak, warm, updates, floor=0.0):
    if warm >= updates:
        raise UserError("nothing is left for the cosine")
    if updates <= t < 2 * updates:
        return floor
    progress = max(0, (t - warm) / (updates - warm))
    fall = floor + (peak - floor) * (1 + math.cos(math.pi * progress)) / 2
    return fall * ((t + 1) / warm) if t < warm else fall
