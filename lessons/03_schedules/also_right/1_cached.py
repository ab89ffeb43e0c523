"""results are kept by all arguments."""

from functools import cache

from minitrain.errors import UserError
from minitrain.lr_schedules import cosine


@cache
def warmup_cosine(t, peak, warm, updates, floor=0.0):
    if warm >= updates:
        raise UserError("nothing is left for the cosine")
    join = cosine(0, peak, updates - warm, floor)
    return join * ((t + 1) / warm) if t < warm else cosine(t - warm, peak, updates - warm, floor)
