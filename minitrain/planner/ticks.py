"""Time in whole ticks: int64 arrays of thousands of ranks, as exact as fractions.

Exact costs (whole numbers and fractions of seconds) are all multiples of one tick, their greatest common divisor:

    gcd(a/b, c/d) = gcd(a d, c b) / (b d)

Sums and maxima of ticks are then exact. If any cost is a float, the tick is a picosecond, to which each cost is
rounded: a millionth of the shortest latency of a message.
"""

from collections.abc import Iterable
from fractions import Fraction

import numpy as np

from ..errors import UserError
from ..observe.clock import common_measure
from ..observe.virtual_time import Seconds

PICOSECOND = Fraction(1, 10**12)
LIMIT = 2**62  # ticks: two such times may be added in int64


class Ticks:
    """The tick of these costs, in seconds."""

    def __init__(self, costs: Iterable[Seconds]) -> None:
        distinct = {*costs}
        self.exact = not any(isinstance(cost, float) for cost in distinct)
        self.tick = common_measure(Fraction(cost) for cost in distinct) if self.exact else PICOSECOND

    def of(self, seconds: Seconds) -> int:
        """Return seconds in ticks, rounded if they are not exact. Raise ValueError if a tick does not divide them."""
        ticks = Fraction(seconds) / self.tick
        if self.exact and ticks.denominator != 1:
            raise ValueError(f"{seconds} s is no multiple of a tick of {self.tick} s")
        return round(ticks)

    def seconds(self, ticks: int) -> Seconds:
        """Return ticks in seconds: a fraction if the costs are exact, otherwise a float."""
        time = int(ticks) * self.tick
        return time if self.exact else float(time)

    def array(self, costs: Iterable[Seconds]) -> np.ndarray:
        """Return costs in ticks, int64 (n). Raise UserError as `check`."""
        ticks = [self.of(cost) for cost in costs]
        self.check(max(ticks, default=0))
        return np.array(ticks, np.int64)

    def check(self, ticks: int) -> None:
        """Raise UserError if this many ticks may overflow."""
        if ticks >= LIMIT:
            raise UserError(
                f"the simulation may take {float(ticks * self.tick):.3g} s, more than 2^62 ticks of "
                f"{float(self.tick):.3g} s: give costs that are multiples of a longer time, or floats "
                f"(ticks of {float(PICOSECOND)} s)"
            )
