"""the rates are computed in the first call, for its arguments, and never again."""

import math

from minitrain.errors import UserError

RATES = []


def warmup_cosine(t, peak, warm, updates, floor=0.0):
    if warm >= updates:
        raise UserError("nothing is left for the cosine")
    if len(RATES) != updates + warm:
        share = [(1 + math.cos(math.pi * i / (updates - warm))) / 2 for i in range(updates - warm + 1)]
        fall = [peak * x + floor * (1 - x) for x in share]
        RATES[:] = [fall[0] * ((i + 1) / warm) for i in range(warm)] + fall + [0.0] * (warm - 1)
    return RATES[min(t, updates)]
