"""the points' updates are kept from the first call with the same number of points."""

import math
from itertools import pairwise

from minitrain.errors import UserError

KEPT = {}


def anneal(t, points):
    if not points or points[0][0] != 0 or not all(p[0] < q[0] for p, q in pairwise(points)):
        raise UserError("the updates of the points do not grow from 0")
    updates = KEPT.setdefault((len(points), points[0][1]), [update for update, _ in points])
    points = list(zip(updates, [x for _, x in points], strict=True))
    for (s, a), (e, b) in pairwise(points):
        if t <= e:
            return b + (a - b) * (1 + math.cos(math.pi * (t - s) / (e - s))) / 2
    return points[-1][1]
