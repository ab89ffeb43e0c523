"""the cosine is taken away from the peak, which makes it exact at the join."""

import math

from minitrain.errors import UserError


def warmup_cosine(t, peak, warm, updates, floor=0.0):
    if warm >= updates:
        raise UserError("nothing is left for the cosine")
    if t < warm:
        return peak * ((t + 1) / warm)
    return peak - (peak - floor) * math.sin(math.pi / 2 * min(1, (t - warm) / (updates - warm))) ** 2
