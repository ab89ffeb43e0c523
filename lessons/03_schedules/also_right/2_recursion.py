"""all but the last point come from a call with the last one left out."""

import math
from itertools import pairwise

from minitrain.errors import UserError


def anneal(t, points):
    if not points or points[0][0] != 0 or not all(p[0] < q[0] for p, q in pairwise(points)):
        raise UserError("the updates of the points do not grow from 0")
    if len(points) == 1 or t >= points[-1][0]:
        return points[-1][1]
    (s, a), (e, b) = points[-2:]
    if t < s:
        return anneal(t, points[:-1])
    return (a + b) / 2 + (a - b) / 2 * math.cos(math.pi * (t - s) / (e - s))
