"""Learning rates as pure functions of the update number, counted from 0."""

import math

from .errors import UserError, check_number, check_whole


def warmup_cosine(update: int, peak: float, warmup: int, updates: int, floor: float = 0.0) -> float:
    """Up to `peak` in a line over `warmup` updates, then down to `floor` along half a cosine.

        lr_t = peak (t + 1) / warmup                                          for t < warmup
        lr_t = floor + (peak - floor) (1 + cos(pi (t - warmup) / n)) / 2      for n = updates - warmup more

    Afterwards it stays at the floor. Loshchilov, Hutter, "SGDR", arXiv:1608.03983; the warm-up: Goyal et al.,
    arXiv:1706.02677. Raises UserError for a warm-up that leaves nothing of the updates, or a floor above the peak.
    """
    for name, whole in (("update", update), ("warmup", warmup), ("updates", updates)):
        check_whole(name, whole)
    for name, number in (("peak", peak), ("floor", floor)):
        check_number(name, number, "at least 0")
    if warmup >= updates or floor > peak:
        raise UserError(
            f"no schedule warms up for {warmup} of {updates} updates to {peak} and ends at {floor}: "
            "warmup must be less than updates, and floor at most peak"
        )
    if update < warmup:
        return peak * (update + 1) / warmup
    progress = min(1.0, (update - warmup) / (updates - warmup))
    return floor + (peak - floor) * (1 + math.cos(math.pi * progress)) / 2
