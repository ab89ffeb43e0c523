"""Goes down the points by recursion, after all of them have been checked."""

import math
from collections.abc import Sequence

from minitrain.errors import UserError, check_whole, shown


def _increase(points: Sequence[tuple[float, float]]) -> bool:
    return len(points) < 2 or (points[0][0] < points[1][0] and _increase(points[1:]))


def _value(t: int, points: Sequence[tuple[float, float]]) -> float:
    s, a = points[0]
    if len(points) == 1:
        return a
    e, b = points[1]
    if t > e:
        return _value(t, points[1:])
    return (a + b) / 2 + (a - b) / 2 * math.cos(math.pi * (t - s) / (e - s))


def anneal(t: int, points: Sequence[tuple[float, float]]) -> float:
    check_whole("t", t)
    if len(points) == 0 or points[0][0] != 0 or not _increase(points):
        raise UserError(f"the points are {shown(points)}; their updates must start at 0 and increase")
    return _value(t, points)
