"""steps between the points are added up: each is on its way, done, or not begun."""

import math
from itertools import pairwise

from minitrain.errors import UserError


def anneal(t, points):
    if not points or points[0][0] != 0 or not all(p[0] < q[0] for p, q in pairwise(points)):
        raise UserError("the updates of the points do not grow from 0")
    done = [min(1, max(0, (t - s) / (e - s))) for (s, _), (e, _) in pairwise(points)]
    steps = [b - a for (_, a), (_, b) in pairwise(points)]
    return points[0][1] + sum(step * math.sin(math.pi / 2 * x) ** 2 for x, step in zip(done, steps, strict=True))
