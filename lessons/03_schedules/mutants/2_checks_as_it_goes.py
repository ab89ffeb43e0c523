"""the points are checked only as far as t: later wrong points raise no error for an early t."""

import math
from collections.abc import Sequence
from itertools import pairwise

from minitrain.errors import UserError, check_whole, shown


def anneal(t: int, points: Sequence[tuple[float, float]]) -> float:
    check_whole("t", t)
    if not points or points[0][0] != 0:
        raise UserError(f"the points are {shown(points)}; their updates must start at 0")
    for (s, a), (e, b) in pairwise(points):
        if e <= s:
            raise UserError(f"the points are {shown(points)}; their updates must increase")
        if t <= e:
            return b + (a - b) * (1 + math.cos(math.pi * (t - s) / (e - s))) / 2
    return points[-1][1]
