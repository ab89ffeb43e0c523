"""warm > updates raises an error, but warm = updates does not."""

from functools import partial

from minitrain.errors import UserError
from minitrain.lr_schedules import cosine, warmup


def warmup_cosine(t: int, peak: float, warm: int, updates: int, floor: float = 0.0) -> float:
    if warm > updates:
        raise UserError(f"warm is {warm}, more than the {updates} updates")
    return warmup(t, warm, partial(cosine, peak=peak, updates=max(1, updates - warm), floor=floor))
