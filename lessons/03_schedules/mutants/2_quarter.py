"""the pieces are quarters of a cosine, flat at one end only."""

import math
from itertools import pairwise

from minitrain.errors import UserError


def anneal(t, points):
    if points[0][0] != 0 or not all(p[0] < q[0] for p, q in pairwise(points)):
        raise UserError("the updates of the points do not grow from 0")
    for (s, a), (e, b) in pairwise(points):
        if t <= e:
            return b + (a - b) * math.cos(math.pi / 2 * (t - s) / (e - s))
    return points[-1][1]
