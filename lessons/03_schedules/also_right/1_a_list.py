"""all rates are listed, and one is picked."""

from minitrain.errors import UserError
from minitrain.lr_schedules import cosine, warmup


def warmup_cosine(t, peak, warm, updates, floor=0.0):
    if warm >= updates:
        raise UserError("nothing is left for the cosine")
    falls = [cosine(i, peak, updates - warm, floor) for i in range(updates - warm + 1)]
    rates = [warmup(i, warm, lambda _: falls[0]) for i in range(warm)] + falls
    return rates[min(t, updates)]
