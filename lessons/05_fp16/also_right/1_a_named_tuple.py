"""the pair is a named tuple."""

import math
from typing import NamedTuple


class State(NamedTuple):
    scale: float
    good: int


def next_scale(scale, good, overflow, growth=2.0, backoff=0.5, interval=2000):
    if overflow:
        return State(scale * backoff, 0)
    state = State(scale, good + 1)
    if state.good == interval:
        grown = scale * growth
        state = State(scale if math.frexp(grown)[1] > 128 else grown, 0)
    return state
