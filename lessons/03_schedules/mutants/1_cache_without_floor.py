"""rates are cached under a key that lacks the floor."""

import math

from minitrain.errors import UserError

_rates: dict[tuple[float, int, int], list[float]] = {}


def warmup_cosine(t: int, peak: float, warm: int, updates: int, floor: float = 0.0) -> float:
    if warm >= updates:
        raise UserError(f"warm is {warm}; it must be less than updates, {updates}")
    key = (peak, warm, updates)
    if key not in _rates:
        n, top = updates - warm, floor + (peak - floor)
        up = [top * ((i + 1) / warm) for i in range(warm)]
        down = [floor + (peak - floor) * (1 + math.cos(math.pi * i / n)) / 2 for i in range(n)]
        _rates[key] = [*up, *down, floor]
    return _rates[key][min(t, updates)]
