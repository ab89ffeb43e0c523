"""An overflow does not reset the count of good steps: the scale grows again right after shrinking, and overflows."""

from functools import partial

from tests.bugs.museum import FunctionBug
from tests.equivalence.harness import Case
from tests.parallel.test_overflow import FIRST, Spot, moving, test_all_ranks_leave_the_batch_out


def rule(
    scale: float, good: int, overflow: bool, growth: float, backoff: float, interval: int
) -> tuple[float, int]:  # fmt: skip
    if overflow:
        return scale * backoff, good
    return (scale, good + 1) if good + 1 < interval else (scale * growth, 0)


BUG = FunctionBug(test_all_ranks_leave_the_batch_out, (3, Case(), (Spot(2, FIRST),)), scaler=partial(moving, rule=rule))
