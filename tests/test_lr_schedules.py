"""Warm-up and cosine: end points, no jump where they join, the formula, and the floor afterwards."""

import math
from itertools import pairwise

import pytest

from minitrain.lr_schedules import warmup_cosine

PEAK, WARMUP, UPDATES, FLOOR = 0.01, 10, 110, 0.001


def rate(update: int) -> float:
    return warmup_cosine(update, PEAK, WARMUP, UPDATES, FLOOR)


def test_end_points() -> None:
    assert math.isclose(rate(0), PEAK / WARMUP)
    assert math.isclose(rate(WARMUP - 1), PEAK)
    assert rate(WARMUP - 1) == rate(WARMUP)
    assert math.isclose(rate(WARMUP), PEAK)
    assert math.isclose(rate((WARMUP + UPDATES) // 2), (PEAK + FLOOR) / 2)
    assert math.isclose(rate(UPDATES), FLOOR)


def test_formula() -> None:
    for t in range(WARMUP):
        assert math.isclose(rate(t), PEAK * (t + 1) / 10)
    for t in range(WARMUP, UPDATES):
        share = (t - WARMUP) / 100
        assert math.isclose(rate(t), FLOOR + (PEAK - FLOOR) * math.cos(math.pi * share / 2) ** 2)


def test_up_then_down_without_a_jump() -> None:
    rates = [rate(t) for t in range(UPDATES + 1)]
    assert rates[:WARMUP] == sorted(rates[:WARMUP])
    assert rates[WARMUP:] == sorted(rates[WARMUP:], reverse=True)
    steps = [abs(b - a) for a, b in pairwise(rates)]
    assert max(steps) <= PEAK / WARMUP * (1 + 1e-9) and max(steps[WARMUP - 1 :]) < 0.02 * PEAK
    assert min(rates) > 0 and math.isclose(max(rates), PEAK)


def test_floor_afterwards() -> None:
    assert all(math.isclose(rate(t), FLOOR) for t in (UPDATES, UPDATES + 1, 10 * UPDATES))
    assert warmup_cosine(UPDATES, PEAK, WARMUP, UPDATES) == pytest.approx(0, abs=1e-18)


def test_pure() -> None:
    """Asked in any order, as often as one likes: a run that is resumed has the rates of one that was not."""
    forwards = [rate(t) for t in range(UPDATES)]
    assert [rate(t) for t in reversed(range(UPDATES))] == forwards[::-1]


@pytest.mark.parametrize(("warmup", "updates"), [(0, 5), (0, 1), (1, 2), (4, 5)])
def test_short_runs(warmup: int, updates: int) -> None:
    rates = [warmup_cosine(t, 1.0, warmup, updates) for t in range(updates)]
    assert math.isclose(rates[warmup], 1) and all(0 < r < 1 + 1e-9 for r in rates)
