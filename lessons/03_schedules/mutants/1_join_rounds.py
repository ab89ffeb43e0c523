"""peak / warm is multiplied by t + 1, so the last warm-up update misses the peak by a rounding error."""

from functools import partial

from minitrain.errors import UserError
from minitrain.lr_schedules import cosine


def warmup_cosine(t: int, peak: float, warm: int, updates: int, floor: float = 0.0) -> float:
    if warm >= updates:
        raise UserError(f"warm is {warm}, updates {updates}; warm must be less than updates")
    if t < warm:
        return peak / warm * (t + 1)
    return partial(cosine, peak=peak, updates=updates - warm, floor=floor)(t - warm)
