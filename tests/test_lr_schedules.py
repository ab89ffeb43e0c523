"""Schedules: equal to other formulas and to PyTorch's, continuous where they join, pure, correct at the ends."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pytest

from minitrain.comm import threads
from minitrain.commands.config import TrainConfig
from minitrain.commands.options import LearningRates, OptimizerOptions
from minitrain.data.loader import ArrayLoader
from minitrain.errors import UserError
from minitrain.lr_schedules import (
    Schedule,
    anneal,
    constant,
    cosine,
    cosine_restarts,
    exponential,
    inverse_time,
    linear,
    one_cycle,
    one_cycle_momentum,
    polynomial,
    range_test,
    reduce_on_plateau,
    step,
    warmup,
    warmup_cosine,
)
from minitrain.models import MLPConfig, mlp
from minitrain.train.trainer import Trainer

PEAK, N, FLOOR = 0.01, 100, 0.001
LONG = 130  # updates to check: past the end of schedules that have one


def close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-18)


# The formulas, written another way ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A schedule; its rates as one array; PyTorch's schedule, made from torch.optim.lr_scheduler and an optimizer
    with rate PEAK (None if PyTorch has no equivalent); the number of updates to compare."""

    ours: Schedule
    rates: Callable[[np.ndarray], np.ndarray]
    theirs: Callable[[Any, Any], Any] | None = None
    updates: int = LONG


def down(t: np.ndarray) -> np.ndarray:
    """Fall linearly from 1 at update 0 to 0 at N."""
    return np.interp(t, [0, N], [1, 0])


def half_waves(t: np.ndarray, *points: tuple[float, float]) -> np.ndarray:
    """Interpolate between the points with cos^2; keep the last value afterwards."""
    values = np.full(len(t), points[-1][1])
    for (s, a), (e, b) in reversed(list(pairwise(points))):
        inside = (s <= t) & (t <= e)
        values[inside] = b + (a - b) * np.cos(np.pi / 2 * (t[inside] - s) / (e - s)) ** 2
    return values


def saw(t: np.ndarray, *lengths: int) -> np.ndarray:
    """Concatenate periods of these lengths, each half a cosine from PEAK to FLOOR."""
    whole = [half_waves(np.arange(n), (0, PEAK), (n, FLOOR)) for n in lengths]
    return np.concatenate(whole)[t]


def rise_and(rates: Callable[[np.ndarray], np.ndarray], n: int) -> Callable[[np.ndarray], np.ndarray]:
    """Prepend a warm-up to another list of rates."""
    return lambda t: np.concatenate([rates(t)[0] * np.linspace(1 / n, 1, n), rates(t)])[: len(t)]


CYCLE: dict[str, Any] = {"peak": PEAK, "updates": N}
TWO: dict[str, Any] = {"rise": 0.3, "three_phases": False}
ROWS: dict[str, Row] = {
    "constant": Row(partial(constant, peak=PEAK), lambda t: 0 * t + PEAK, lambda s, o: s.ConstantLR(o, 1.0)),
    "linear": Row(
        partial(linear, peak=PEAK, updates=N, floor=FLOOR),
        lambda t: np.interp(t, [0, N], [PEAK, FLOOR]),
        lambda s, o: s.LinearLR(o, 1.0, FLOOR / PEAK, N),
    ),
    "polynomial": Row(
        partial(polynomial, peak=PEAK, updates=N, power=1.7, floor=0.0),
        lambda t: PEAK * down(t) ** 1.7,
        lambda s, o: s.PolynomialLR(o, N, 1.7),
    ),
    "polynomial above a floor": Row(
        partial(polynomial, peak=PEAK, updates=N, power=3, floor=FLOOR), lambda t: FLOOR + 0.009 * down(t) ** 3
    ),
    "cosine": Row(
        partial(cosine, peak=PEAK, updates=N, floor=FLOOR),
        lambda t: half_waves(t, (0, PEAK), (N, FLOOR)),
        lambda s, o: s.CosineAnnealingLR(o, N, FLOOR),
        N + 1,  # PyTorch's rises again
    ),
    "restarts": Row(
        partial(cosine_restarts, peak=PEAK, period=30, floor=FLOOR),
        lambda t: saw(t, *[30] * 5),
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 30, 1, FLOOR),
    ),
    "longer restarts": Row(
        partial(cosine_restarts, peak=PEAK, period=10, factor=3, floor=FLOOR),
        lambda t: saw(t, 10, 30, 90),
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 10, 3, FLOOR),
    ),
    "exponential": Row(
        partial(exponential, peak=PEAK, gamma=0.95),
        lambda t: PEAK * np.cumprod([1.0, *[0.95] * LONG])[t],
        lambda s, o: s.ExponentialLR(o, 0.95),
    ),
    "exponential to a floor": Row(
        partial(exponential, peak=PEAK, gamma=0.5, every=20, floor=FLOOR),
        lambda t: np.maximum(FLOOR, np.exp2(np.log2(PEAK) - t / 20)),
    ),
    "step": Row(
        partial(step, peak=PEAK, gamma=0.3, every=30),
        lambda t: np.repeat(PEAK * np.cumprod([1.0, *[0.3] * 4]), 30)[t],
        lambda s, o: s.StepLR(o, 30, 0.3),
    ),
    "step to a floor": Row(
        partial(step, peak=PEAK, gamma=0.5, every=10, floor=FLOOR),
        lambda t: np.repeat([PEAK, PEAK / 2, PEAK / 4, PEAK / 8, *[FLOOR] * 9], 10)[t],
    ),
    "inverse time": Row(
        partial(inverse_time, peak=PEAK, k=0.25),
        lambda t: 1 / np.cumsum([1 / PEAK, *[0.25 / PEAK] * LONG])[t],
        lambda s, o: s.LambdaLR(o, lambda t: 1 / (1 + 0.25 * t)),
    ),
    "inverse time by epochs": Row(
        partial(inverse_time, peak=0.001, every=13), lambda t: 0.001 / (1 + np.repeat(np.arange(10), 13)[t])
    ),
    "two phases": Row(
        partial(one_cycle, **CYCLE | TWO),
        lambda t: half_waves(t, (0, PEAK / 25), (29, PEAK), (N - 1, PEAK / 25e4)),
        lambda s, o: s.OneCycleLR(o, PEAK, N),
        N,
    ),
    "three phases": Row(
        partial(one_cycle, **CYCLE),
        lambda t: half_waves(t, (0, PEAK / 25), (44, PEAK), (88, PEAK / 25), (N - 1, PEAK / 25e4)),
        lambda s, o: s.OneCycleLR(o, PEAK, N, pct_start=0.45, three_phase=True),
        N,
    ),
    "a peak between two updates": Row(
        partial(one_cycle, **CYCLE, rise=0.333, start=10, end=100),
        lambda t: half_waves(t, (0, PEAK / 10), (32.3, PEAK), (64.6, PEAK / 10), (N - 1, PEAK / 1e3)),
        lambda s, o: s.OneCycleLR(o, PEAK, N, pct_start=0.333, div_factor=10, final_div_factor=100, three_phase=True),
        N,
    ),
    "range test": Row(
        partial(range_test, min_lr=1e-4, max_lr=10.0, updates=LONG), lambda t: np.logspace(-4, 1, LONG)[t]
    ),
    "warm-up and cosine": Row(
        partial(warmup_cosine, peak=PEAK, warm=12, updates=112, floor=FLOOR),
        rise_and(lambda t: half_waves(t, (0, PEAK), (N, FLOOR)), 12),
        lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 1 / 12, 1.0, 11), s.CosineAnnealingLR(o, N, FLOOR)], [12]),
        112,
    ),
    "warm-up and stairs": Row(
        partial(warmup, updates=7, then=partial(step, peak=PEAK, gamma=0.3, every=30)),
        rise_and(lambda t: np.repeat(PEAK * np.cumprod([1.0, *[0.3] * 4]), 30)[t], 7),
        lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 1 / 7, 1.0, 6), s.StepLR(o, 30, 0.3)], [7]),
    ),
}
every_row = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)


@every_row
def test_equal_to_a_formula_at_every_update(row: Row) -> None:
    true = row.rates(np.arange(LONG))
    assert len(true) == LONG
    for t in range(LONG):
        assert close(row.ours(t), true[t]), t


@pytest.mark.parametrize("row", [row for row in ROWS.values() if row.theirs], ids=[n for n in ROWS if ROWS[n].theirs])
def test_equal_to_pytorch_at_every_update(row: Row) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'minitrain[oracle]'")
    assert row.theirs is not None
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK, momentum=0.9)
    theirs = row.theirs(torch.optim.lr_scheduler, optimizer)
    for t in range(row.updates):
        assert math.isclose(row.ours(t), optimizer.param_groups[0]["lr"], rel_tol=1e-11), t
        optimizer.step()
        if t + 1 < row.updates:
            theirs.step()


@pytest.mark.parametrize(("three", "rise"), [(False, 0.3), (True, 0.45), (True, 0.301)])
def test_momentum_equal_to_pytorch(three: bool, rise: float) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'minitrain[oracle]'")
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=PEAK)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, N, pct_start=rise, three_phase=three)
    for t in range(N):
        ours = one_cycle_momentum(t, N, rise=rise, three_phases=three)
        assert math.isclose(ours, optimizer.param_groups[0]["betas"][0], rel_tol=1e-12), t
        optimizer.step()
        if t + 1 < N:
            theirs.step()


# Pure functions -------------------------------------------------------------------------------------------------------


@every_row
def test_the_middle_needs_no_beginning(row: Row) -> None:
    """The rate at t does not depend on earlier calls, in any order and number."""
    forwards = [row.ours(t) for t in range(LONG)]
    assert [row.ours(t) for t in range(50, LONG)] == forwards[50:]
    assert [row.ours(t) for t in reversed(range(LONG))] == forwards[::-1]


@every_row
def test_a_trainer_that_is_made_anew_in_mid_run(row: Row) -> None:
    """A trainer recreated during a run needs only the number of updates."""
    data = ArrayLoader(np.ones((4, 3), np.float32), np.array([0, 1, 0, 1]), batch=2, seed=1)

    def make() -> Trainer:
        return Trainer(mlp(MLPConfig(3, (2,), 2)), threads.world_of_one(), schedule=row.ours)

    whole, resumed = make(), make()
    rates = [whole.step(data.batch(n)).lr for n in range(LONG)]
    resumed.optimizer.updates = 77
    assert [resumed.step(data.batch(n)).lr for n in range(77, LONG)] == rates[77:]
    assert rates == [row.ours(t) for t in range(LONG)]


# The join -------------------------------------------------------------------------------------------------------------


@every_row
@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 49, 100])
def test_a_warm_up_joins_without_a_jump(row: Row, n: int) -> None:
    """The join is exact, even where n/n of a rate is not the rate: (0.1 * 3) / 3 is 0.10000000000000002."""
    rates = [warmup(t, n, row.ours) for t in range(n + LONG)]
    if n:
        assert rates[n - 1] - rates[n] == 0.0
        assert rates[:n] == sorted(rates[:n])
        assert close(rates[0], row.ours(0) / n)
    assert rates[n:] == [row.ours(t) for t in range(LONG)]


def test_the_join_of_awkward_numbers() -> None:
    draw = np.random.default_rng(1)
    for peak, n in zip(draw.uniform(0, 1, 500).tolist(), draw.integers(1, 1000, 500).tolist(), strict=True):
        schedule = partial(warmup_cosine, peak=peak, warm=n, updates=2 * n, floor=peak / 7)
        assert schedule(n - 1) == schedule(n)
    assert 0.1 * 3 / 3 != 0.1


def test_no_jump_inside_one_cycle() -> None:
    """The slope is never steeper than that of the steepest half wave: pi / 2 times its chord."""
    for two in ({}, TWO):
        rates = [one_cycle(t, **CYCLE, **two) for t in range(N)]
        assert max(abs(b - a) for a, b in pairwise(rates)) <= math.pi / 2 * PEAK / 29
    assert max(abs(b - a) for a, b in pairwise([one_cycle_momentum(t, N) for t in range(N)])) <= math.pi / 2 * 0.1 / 44


# Ends -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [linear, cosine, polynomial])
@pytest.mark.parametrize("floor", [0.0, FLOOR])
@pytest.mark.parametrize("n", [1, 2, 7, N])
def test_from_the_peak_to_the_floor(function: Callable[..., float], floor: float, n: int) -> None:
    assert close(function(0, PEAK, n, floor=floor), PEAK)
    assert function(n, PEAK, n, floor=floor) == floor
    assert function(10**18, PEAK, n, floor=floor) == floor
    rates = [function(t, PEAK, n, floor=floor) for t in range(n + 1)]
    assert all(a > b for a, b in pairwise(rates))
    assert close(linear(n, PEAK, 2 * n, floor), cosine(n, PEAK, 2 * n, floor))  # they meet halfway


@pytest.mark.parametrize("function", [partial(exponential, gamma=0.5), partial(step, gamma=0.5), inverse_time])
def test_to_the_floor_and_no_further(function: Callable[..., float]) -> None:
    assert function(0, PEAK, every=10, floor=FLOOR) == PEAK
    rates = [function(t, PEAK, every=10, floor=FLOOR) for t in range(LONG)]
    assert rates == sorted(rates, reverse=True) and rates[-1] == min(rates) == FLOOR
    assert function(10**18, PEAK, every=10) == pytest.approx(0, abs=1e-15)
    if function is not inverse_time:
        assert close(function(10, PEAK, every=10), PEAK / 2)


def test_nothing_falls_without_a_reason() -> None:
    for t in (0, 1, N, 10**18):
        assert constant(t, PEAK) == exponential(t, PEAK, 1) == step(t, PEAK, 1, 1) == inverse_time(t, PEAK, 0) == PEAK


@pytest.mark.parametrize(("k", "half"), [(0.25, 4), (0.01, 100), (1, 1)])
def test_inverse_time_has_halved_at_1_over_k(k: float, half: int) -> None:
    assert inverse_time(half, PEAK, k) == PEAK / 2
    assert inverse_time(half - 1, PEAK, k) > PEAK / 2


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_restarts_begin_at_the_peak(factor: int) -> None:
    """The update before a restart has the lowest rate of its period."""
    start = 0
    for period in (10 * factor**i for i in range(5)):
        rates = [cosine_restarts(t, PEAK, 10, factor, FLOOR) for t in range(start, start + period)]
        assert close(rates[0], PEAK) and rates == sorted(rates, reverse=True) and rates[-1] > FLOOR
        start += period
    assert close(cosine_restarts(10**18, PEAK, 10, 1, FLOOR), PEAK)  # fast for any t
    assert FLOOR <= cosine_restarts(10**18, PEAK, 10, 2, FLOOR) <= PEAK


@pytest.mark.parametrize("three", [False, True])
def test_one_cycle_ends_far_below_where_it_began(three: bool) -> None:
    rates = [one_cycle(t, PEAK, N, 0.4, three_phases=three) for t in range(N)]
    momenta = [one_cycle_momentum(t, N, rise=0.4, three_phases=three) for t in range(N)]
    assert close(rates[0], PEAK / 25) and max(rates) == rates[39] == PEAK and close(rates[-1], rates[0] / 1e4)
    assert momenta[0] == momenta[-1] == 0.95 and min(momenta) == momenta[39] == 0.85
    assert rates[:40] == sorted(rates[:40]) and rates[39:] == sorted(rates[39:], reverse=True)
    assert momenta[:40] == sorted(momenta[:40], reverse=True) and momenta[39:] == sorted(momenta[39:])
    assert one_cycle(10**18, PEAK, N, 0.4, three_phases=three) == pytest.approx(PEAK / 25e4)
    if three:
        assert close(rates[78], rates[0]) and close(rates[20], rates[78 - 20])  # falls as slowly as it rises
        assert momenta[78:] == [0.95] * 22


@pytest.mark.parametrize(("updates", "three"), [(3, True), (4, False), (5, True)])
def test_the_shortest_cycles(updates: int, three: bool) -> None:
    rates = [one_cycle(t, PEAK, updates, three_phases=three) for t in range(updates)]
    assert all(0 < rate <= PEAK for rate in rates) and rates[-1] == min(rates)


def test_a_rise_that_leaves_a_phase_empty() -> None:
    with pytest.raises(UserError, match=r"rise is 0\.9: with 20 updates .*; give at most 0\.5, or more updates"):
        one_cycle(0, PEAK, 20, rise=0.9)
    for three in (True, False):
        with pytest.raises(
            UserError, match=r"rise is 0\.05: with 20 updates .*; give more than 0\.05, or more updates"
        ):
            one_cycle(0, PEAK, 20, rise=0.05, three_phases=three)


@pytest.mark.parametrize(("warm", "updates"), [(0, 5), (0, 1), (1, 2), (4, 5)])
def test_short_runs(warm: int, updates: int) -> None:
    rates = [warmup_cosine(t, 1.0, warm, updates) for t in range(updates)]
    assert math.isclose(rates[warm], 1) and all(0 < r < 1 + 1e-9 for r in rates)


def test_anneal_goes_through_its_points() -> None:
    points = [(0, 1.0), (2.5, 3.0), (7, -1.0), (9, 4.0)]
    assert [anneal(t, points) for t in (0, 7, 9, 10)] == [1.0, -1.0, 4.0, 4.0]
    assert close(anneal(8, points), 1.5) and anneal(3, [(0, 2.0)]) == 2.0


# Plateaus -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_plateaus_equal_to_pytorch(seed: int) -> None:
    """The rates agree after every epoch, on losses that fall, stagnate, rise and explode."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'minitrain[oracle]'")
    draw = np.random.default_rng(seed)
    losses = np.maximum(0.2, np.exp(-np.arange(60) / 10) + 0.1 * draw.normal(size=60)).tolist()
    losses[30 + seed], losses[5] = math.nan, math.inf
    settings = {"factor": draw.choice([0.1, 0.5, 0.9]), "patience": int(draw.integers(0, 5)),
                "threshold": draw.choice([0.0, 1e-4, 0.05]), "cooldown": int(draw.integers(0, 4))}  # fmt: skip
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, min_lr=1e-5, eps=0, **settings)
    rates = [reduce_on_plateau([], PEAK, **settings)]
    for n, loss in enumerate(losses, 1):
        theirs.step(loss)
        rates.append(reduce_on_plateau(losses[:n], PEAK, floor=1e-5, **settings))
        assert math.isclose(rates[-1], optimizer.param_groups[0]["lr"], rel_tol=1e-12), n
    assert rates[0] == PEAK > rates[-1] >= 1e-5


def test_plateaus_by_hand() -> None:
    """With patience 1, the second bad epoch in a row reduces the rate; the first does not."""
    losses = [3.0, 2.0, 2.0, 2.5, 1.0, 1.0, 1.0]
    found = [reduce_on_plateau(losses[:n], 1.0, factor=0.5, patience=1) for n in range(8)]
    assert found == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25]
    resting = [reduce_on_plateau([1.0] * n, 1.0, factor=0.5, patience=0, cooldown=2) for n in range(8)]
    assert resting == [1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert reduce_on_plateau([1.0] * 50, 1.0, factor=0.5, patience=0, floor=0.3) == 0.3


# The options of a run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"steps": 51, "warmup": 20}, {"steps": 12, "warmup": 2}, {"lr": 5e-5}], ids=str
)
def test_without_options_it_is_warm_up_and_cosine(options: dict[str, Any]) -> None:
    """The rates equal the single formula bit for bit, so that earlier runs can be repeated."""
    o = OptimizerOptions(**options)
    warm = o.warm_updates()
    schedule, floor, rest = o.schedule(), min(1e-4, o.lr), o.steps - warm
    for t in range(warm):
        assert schedule(t) == o.lr * (t + 1) / warm
    for t in range(warm, o.steps + 3):
        progress = min(1.0, (t - warm) / rest)
        assert schedule(t) == floor + (o.lr - floor) * (1 + math.cos(math.pi * progress)) / 2
        assert schedule(t) == warmup_cosine(t, o.lr, warm, o.steps, floor)


CHOICES: dict[str, Schedule] = {
    "cosine": partial(cosine, peak=0.01, updates=90, floor=1e-3),
    "linear": partial(linear, peak=0.01, updates=90, floor=1e-3),
    "polynomial": partial(polynomial, peak=0.01, updates=90, power=3.0, floor=1e-3),
    "exponential": partial(exponential, peak=0.01, gamma=0.7, every=20, floor=1e-3),
    "step": partial(step, peak=0.01, gamma=0.7, every=20, floor=1e-3),
    "inverse-time": partial(inverse_time, peak=0.01, every=20, floor=1e-3),
    "cosine-restarts": partial(cosine_restarts, peak=0.01, period=20, factor=3, floor=1e-3),
    "constant": partial(constant, peak=0.01),
}


@pytest.mark.parametrize("name", get_args(LearningRates))
def test_every_choice(name: LearningRates) -> None:
    options = OptimizerOptions(
        100, 0.01, name, lr_floor=1e-3, lr_gamma=0.7, lr_every=20, lr_power=3.0, lr_factor=3, warmup=10
    )
    rates = [options.schedule()(t) for t in range(100)]
    if name == "one-cycle":
        assert rates == [one_cycle(t, 0.01, 100) for t in range(100)]
        assert rates == [replace(options, warmup=70).schedule()(t) for t in range(100)]
    else:
        assert rates == [warmup(t, 10, CHOICES[name]) for t in range(100)]
    assert len({*rates}) > 5 and close(max(rates), 0.01)


@pytest.mark.parametrize(("steps", "warm"), [(1, 0), (9, 0), (10, 1), (30, 3), (999, 99), (1000, 100), (10**6, 100)])
def test_the_warm_up_fits_the_steps(steps: int, warm: int) -> None:
    """A given warm-up may be too long; TrainConfig.check then says so."""
    options = OptimizerOptions(steps=steps)
    assert options.warm_updates() == warm and OptimizerOptions(steps=steps, warmup=7).warm_updates() == 7
    TrainConfig(optimizer=options).check(1)
    rates = [options.schedule()(t) for t in range(min(steps, 2000))]
    assert max(rates) == options.lr and rates.index(options.lr) == max(0, warm - 1)


@pytest.mark.parametrize("name", ["step", "exponential", "inverse-time", "cosine-restarts"])
def test_a_short_run_falls_as_a_long_one(name: LearningRates) -> None:
    """A short run falls at every third of its updates, since 100 updates would be all of it; a long run every 100."""
    long, short = (OptimizerOptions(steps=steps, lr_schedule=name, lr_floor=0.0) for steps in (1000, 30))
    for options, every in ((long, 100), (short, 9)):
        found, true = options.schedule(), replace(options, lr_every=every).schedule()
        assert [found(t) for t in range(options.steps)] == [true(t) for t in range(options.steps)]


@pytest.mark.parametrize(("min_lr", "max_lr"), [(1e-320, 1.0), (5e-324, 1e-10), (1e-300, 1e10)])
def test_a_range_that_no_float_spans(min_lr: float, max_lr: float) -> None:
    with pytest.raises(UserError, match=f"min_lr is {min_lr}, too far below max_lr, which is {max_lr}"):
        range_test(3, min_lr, max_lr, 10)
