"""progress is measured from update 0 instead of the start of the piece."""

import math
from itertools import pairwise

from minitrain.errors import UserError


def anneal(t, points):
    if points[0][0] != 0 or not all(p[0] < q[0] for p, q in pairwise(points)):
        raise UserError("the updates of the points do not grow from 0")
    for (_, a), (e, b) in pairwise(points):
        if t <= e:
            return b + (a - b) * (1 + math.cos(math.pi * t / e)) / 2
    return points[-1][1]
