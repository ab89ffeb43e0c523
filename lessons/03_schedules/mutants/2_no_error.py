"""points whose updates do not increase from 0 raise no error."""

import math
from itertools import pairwise


def anneal(t, points):
    for (s, a), (e, b) in pairwise(points):
        if t <= e:
            return b + (a - b) * (1 + math.cos(math.pi * (t - s) / (e - s))) / 2
    return points[-1][1]
