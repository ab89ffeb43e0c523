"""the first piece is used for every t: the test whether t is in it is missing."""

import math
from itertools import pairwise

from minitrain.errors import UserError


def anneal(t, points):
    if points[0][0] != 0 or not all(p[0] < q[0] for p, q in pairwise(points)):
        raise UserError("the updates of the points do not grow from 0")
    for (s, a), (e, b) in pairwise(points):
        return b + (a - b) * (1 + math.cos(math.pi * (t - s) / (e - s))) / 2
    return points[-1][1]
