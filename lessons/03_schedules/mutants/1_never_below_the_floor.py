"""the warm-up is kept above the floor, too; only the cosine has the floor."""

import math

from minitrain.errors import UserError


def warmup_cosine(t, peak, warm, updates, floor=0.0):
    if warm >= updates:
        raise UserError("nothing is left for the cosine")
    share = (1 + math.cos(math.pi * max(0, min(1.0, (t - warm) / (updates - warm))))) / 2
    return max(floor, peak * ((t + 1) / warm)) if t < warm else peak * share + floor * (1 - share)
