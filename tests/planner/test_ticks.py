"""Time in whole ticks is exact if the costs are, and refuses what int64 cannot hold."""

from fractions import Fraction as Q

import pytest

from minitrain.errors import UserError
from minitrain.planner.ticks import LIMIT, PICOSECOND, Ticks


def test_the_tick_is_the_largest_that_divides_all_costs() -> None:
    assert Ticks([Q(1, 6), Q(1, 4), 0]).tick == Q(1, 12)
    assert Ticks([6, 4]).tick == 2 and Ticks([]).tick == Ticks([0]).tick == 1
    with pytest.raises(ValueError, match="no multiple"):
        Ticks([Q(1, 2)]).of(Q(1, 3))


def test_seconds_there_and_back() -> None:
    exact, rounded = Ticks([Q(1, 6), Q(3, 4)]), Ticks([Q(1, 6), 0.75])
    assert (exact.of(Q(3, 4)), exact.seconds(9)) == (9, Q(3, 4))
    assert rounded.tick == PICOSECOND and rounded.of(0.75) == 750_000_000_000
    assert rounded.of(Q(1, 3)) == 333_333_333_333 and rounded.seconds(10**12) == 1.0
    assert exact.array([Q(1, 6), 0]).tolist() == [2, 0]


def test_too_many_ticks_are_refused() -> None:
    Ticks([1]).check(LIMIT - 1)
    with pytest.raises(UserError, match=r"4.61e\+18 s, more than 2\^62 ticks of 1 s"):
        Ticks([1]).array([LIMIT])
