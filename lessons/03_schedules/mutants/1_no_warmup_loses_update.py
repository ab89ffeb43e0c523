"""max(warm, 1) guards against warm = 0, but takes an update from the decay when there is no warm-up."""

from functools import partial

from minitrain.errors import UserError
from minitrain.lr_schedules import cosine, warmup


def warmup_cosine(t: int, peak: float, warm: int, updates: int, floor: float = 0.0) -> float:
    if warm >= updates:
        raise UserError(f"warm is {warm}; it must be less than updates, {updates}")
    rising = max(warm, 1)
    then = partial(cosine, peak=peak, updates=max(updates - rising, 1), floor=floor)
    return warmup(t, rising, then)
