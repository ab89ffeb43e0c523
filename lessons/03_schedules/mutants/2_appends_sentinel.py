"""a point at infinity is appended to the caller's list: the input is changed."""

import math
from collections.abc import Sequence
from itertools import pairwise

from minitrain.errors import UserError, check_whole, shown


def anneal(t: int, points: Sequence[tuple[float, float]]) -> float:
    check_whole("t", t)
    knots = points if isinstance(points, list) else list(points)
    if not knots or knots[0][0] != 0 or any(e <= s for (s, _), (e, _) in pairwise(knots)):
        raise UserError(f"the points are {shown(points)}; their updates must start at 0 and increase")
    if knots[-1][0] != math.inf:
        knots.append((math.inf, knots[-1][1]))
    for (s, a), (e, b) in pairwise(knots):
        if t < e:
            return b + (a - b) * (1 + math.cos(math.pi * (t - s) / (e - s))) / 2
    return knots[-1][1]
