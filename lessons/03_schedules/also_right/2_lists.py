"""points may be anything with two entries."""

import math

from minitrain.errors import UserError


def anneal(t, points):
    points = [list(point) for point in points]
    if not points or points[0][0] != 0 or any(points[i][0] >= points[i + 1][0] for i in range(len(points) - 1)):
        raise UserError("no")
    while len(points) > 1:
        (s, a), (e, b) = points[:2]
        if t < e:
            return a + (b - a) * (1 - math.cos(math.pi * (t - s) / (e - s))) / 2
        points.pop(0)
    return points[0][1]
