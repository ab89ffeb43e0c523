"""the loop goes on after the right piece: the last piece whose end is not yet reached wins."""

import math
from itertools import pairwise

from minitrain.errors import UserError


def anneal(t, points):
    if points[0][0] != 0 or not all(p[0] < q[0] for p, q in pairwise(points)):
        raise UserError("the updates of the points do not grow from 0")
    found = points[-1][1]
    for (s, a), (e, b) in pairwise(points):
        if t <= e:
            found = b + (a - b) * (1 + math.cos(math.pi * (t - s) / (e - s))) / 2
    return found
