"""the piece is found by bisection, the wave is cos^2."""

from bisect import bisect_left
from itertools import pairwise

import numpy as np

from minitrain.errors import UserError


def anneal(t, points):
    if not points or points[0][0] != 0 or not all(p[0] < q[0] for p, q in pairwise(points)):
        raise UserError("the updates of the points do not grow from 0")
    i = bisect_left(points, t, key=lambda point: point[0])
    if i in (0, len(points)):
        return points[min(i, len(points) - 1)][1]
    (s, a), (e, b) = points[i - 1], points[i]
    share = np.cos(np.pi / 2 * (t - s) / (e - s)) ** 2
    return a * share + b * (1 - share)
