"""Checks of this lesson's exercises: independently written curves, queried in any order; resumed runs."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import strategies as st

from minitrain.comm.communicator import Communicator
from minitrain.data.loader import ArrayLoader
from minitrain.errors import UserError
from minitrain.lessons.report import Report
from minitrain.lessons.trials import agrees
from minitrain.lr_schedules import (
    Schedule,
    anneal,
    cosine,
    exponential,
    inverse_time,
    linear,
    one_cycle,
    one_cycle_momentum,
    warmup,
    warmup_cosine,
)
from minitrain.models import MLPConfig, mlp
from minitrain.train.trainer import Trainer

Points = Sequence[tuple[float, float]]


def halves(updates: int, warm: int, gamma: float, k: float) -> dict[str, float]:
    """Return the t at which the rate is half the peak, for five schedules; t may be fractional.

    Return a dict with the keys "linear" and "cosine", over `updates` updates; "exponential" with gamma, 0 < gamma < 1;
    "inverse_time" with k; "warmup_cosine" over `updates` updates, of which `warm` are the warm-up: the t on the way
    down. Floors are 0.
    """
    return {
        "linear": updates / 2,
        "cosine": updates / 2,
        "exponential": math.log(0.5) / math.log(gamma),
        "inverse_time": 1 / k,
        "warmup_cosine": warm + (updates - warm) / 2,
    }


# Checks ---------------------------------------------------------------------------------------------------------------


def check_03_1(world: Communicator, warmup_cosine: Callable[..., float], report: Report) -> None:
    """Check against cos^2 and a list of rates, exactly where they join, and in a trainer recreated during the run."""
    for peak, warm, updates, floor in ((8.0, 2, 6, 0.0), (0.6, 5, 12, 0.1), (1.0, 0, 7, 0.0), (3.0, 1, 2, 1.0)):
        told = f"peak {peak}, warm {warm}, updates {updates}, floor {floor}"
        rates = partial(warmup_cosine, peak=peak, warm=warm, updates=updates, floor=floor)
        true = [*(np.linspace(0, peak, warm + 1)[1:] if warm else []), *waves(((0, peak), (updates - warm, floor)))]
        for t, rate in enumerate([*true, floor, floor, floor]):
            where = "rise" if t < warm else "fall" if t < updates else "end"
            after = " (after the end)" if t >= updates else ""
            value(report, where, rates(t), float(rate), f"{told}: the rate of update {t}{after}")
    for peak, warm in ((0.1, 3), (0.7, 11), (0.003, 100), (0.3, 49)):
        joined(report, warmup_cosine, peak, warm, 0.0)
    pure(report, partial(warmup_cosine, peak=1.0, warm=4, updates=12, floor=0.2), 14)
    in_a_trainer(world, partial(warmup_cosine, peak=0.1, warm=3, updates=9, floor=0.01), report)
    for warm in (5, 6):
        told = f"warm {warm} of 5 updates leaves none for the cosine"
        refuses(report, partial(warmup_cosine, 0, 1.0, warm, 5), told)
    for peak, floor in ((0.3, 0.03), (0.9, 0.2)) if report.ok else ():
        joined(report, warmup_cosine, peak, 3, floor)
    if report.ok:
        agrees(report, warmup_cosine, REFERENCE, RUNS, close=1e-12, examples=160)


def check_03_2(world: Communicator, anneal: Callable[..., float], report: Report) -> None:
    """Check against cos^2, at the points, and against the rate and momentum of the library's one-cycle schedule."""
    one, two, three = [(0, 8.0), (4, 0.0)], [(0, 1.0), (3, 5.0), (8, 2.0)], [(0, 1.0), (2.5, 3.0), (7, -1.0), (9, 4.0)]
    for points in (one, two, three):
        for t, true in enumerate(waves(points)):
            value(report, "value", anneal(t, [*points]), true, f"points {points}, t = {t}: the value")
        for t in (math.ceil(points[-1][0]) + 1, 1000):
            value(
                report,
                "end",
                anneal(t, [*points]),
                points[-1][1],
                f"points {points}, t = {t}, after the end: the value",
            )
    for t in (0, 7):
        value(report, "alone", anneal(t, [(0, 2.0)]), 2.0, f"points [(0, 2.0)], t = {t}: the value")
    top, last = 0.45 * 50 - 1, 49
    rates = [(0, 1 / 25), (top, 1.0), (2 * top, 1 / 25), (last, 1 / 25e4)]
    momenta = [(0, 0.95), (top, 0.85), (2 * top, 0.95), (last, 0.95)]
    for name, points, reference in (
        ("rate", rates, partial(one_cycle, peak=1.0, updates=50)),
        ("momentum", momenta, partial(one_cycle_momentum, updates=50)),
    ):
        for t in range(52):
            value(report, name, anneal(t, [*points]), reference(t), f"one-cycle, 50 updates, t = {t}: the {name}")
    pure(report, lambda t: anneal(t, [*rates]), 52)
    for wrong in ([(1, 1.0), (2, 2.0)], [(0, 1.0), (5, 2.0), (5, 3.0)], [(0, 1.0), (5, 2.0), (3, 0.0)]):
        refuses(report, partial(anneal, 1, [*wrong]), f"points {wrong}, whose updates do not increase from 0")
    if report.ok:
        agrees(report, anneal, ANNEAL, CURVES, close=1e-12, examples=200)


def check_03_3(world: Communicator, halves: Callable[..., dict[str, Any]], report: Report) -> None:
    """Compare the prediction with the library's rates on both sides of it."""
    for updates, warm, gamma, k in ((1000, 100, 0.5**0.01, 0.01), (21, 4, 0.9, 0.3), (7, 0, 0.5, 1.0)):
        given = f"updates {updates}, warm {warm}, gamma {gamma:.4g}, k {k}"
        said, right = halves(updates, warm, gamma, k), HALVES(updates, warm, gamma, k)
        if not report.true("dict", isinstance(said, dict), f"return a dict with the five keys, not {said!r}"):
            return
        for name, (schedule, start) in {
            "linear": (partial(linear, peak=1.0, updates=updates), 0),
            "cosine": (partial(cosine, peak=1.0, updates=updates), 0),
            "exponential": (partial(exponential, peak=1.0, gamma=gamma), 0),
            "inverse_time": (partial(inverse_time, peak=1.0, k=k), 0),
            "warmup_cosine": (partial(REFERENCE, peak=1.0, warm=warm, updates=updates), warm),
        }.items():
            got: Any = said.get(name)
            sentence = f"the key {name!r} must have a number, not {got!r}"
            if not report.true(f"{name} is there", isinstance(got, NUMBERS), sentence):
                continue
            t = next(t for t in range(start, 10**6) if schedule(t + 1) < 0.5 + 1e-12)
            sentence = (
                f"{given}: you predict half the peak of {name} at t = {got:.6g}; the rate of update {t} is "
                f"{schedule(t):.4g} of the peak, that of {t + 1} is {schedule(t + 1):.4g}"
            )
            report.true(name, abs(got - right[name]) < 1e-9 * updates, sentence, float(got))
    if report.ok:
        agrees(report, halves, HALVES, SETTINGS, close=1e-9)


def check_03_4(world: Communicator, triangle: Callable[..., float], report: Report) -> None:
    """Check against the library's linear schedule with warm-up."""
    for peak, warm, updates in ((6.0, 3, 6), (0.5, 10, 25), (1.0, 1, 4), (2.0, 4, 6)):
        told = f"peak {peak:g}, warm {warm}, updates {updates}"
        then = partial(linear, peak=peak, updates=updates - warm)
        rates = [triangle(t, peak, warm, updates) for t in range(updates + 3)]
        wasted = [t for t in range(updates) if rates[t] == 0]
        report.true(
            "wasted", not wasted, f"{told}: updates with the rate 0 are wasted; these have it: {wasted}", str(wasted)
        )
        for t, rate in enumerate(rates):
            where = "rise" if t < warm else "fall" if t < updates else "end"
            after = " (after the end)" if t >= updates else ""
            value(report, where, rate, warmup(t, warm, then), f"{told}: the rate of update {t}{after}")
    if report.ok:
        agrees(report, triangle, linear_with_warmup, TRIANGLES, close=1e-12, examples=160, name="triangle")


# Reference ------------------------------------------------------------------------------------------------------------

REFERENCE, ANNEAL, HALVES = warmup_cosine, anneal, halves
NUMBERS = (int, float, np.integer, np.floating)

RATES = st.sampled_from([0.0, 0.1, 0.3, 0.7, 8.0])
UPDATES, ENDS = st.sampled_from([*range(9), 2000]), [1, 2, 3, 4, 2000]  # late ones, too
RUNS = st.builds(  # 4 or 5 arguments; the last one has a default
    lambda t, rates, warm, updates: (t, max(rates), warm, updates, min(rates))[: 5 if min(rates) else 4],
    UPDATES,
    st.tuples(RATES, RATES),
    st.integers(0, 4),
    st.sampled_from([0, *ENDS]),
)
VALUES = st.sampled_from([0.0, 1.0, -1.0, 0.5, 8.0])
STEPS = st.lists(st.tuples(st.sampled_from([1, 2, 0.25, 2.5, 1.75]), VALUES), max_size=4)
POINTS = st.builds(
    lambda first, steps: [(0, first), *((sum(d for d, _ in steps[: i + 1]), x) for i, (_, x) in enumerate(steps))],
    VALUES,
    STEPS,
)
ANY_POINTS = st.lists(st.tuples(st.sampled_from([0, 1, -1, 2, 0.25]), VALUES), max_size=4)
CURVES = st.tuples(UPDATES, POINTS | POINTS.map(tuple) | ANY_POINTS)
SETTINGS = st.builds(
    lambda updates, warm, gamma, k: (updates, warm % updates, gamma, k),
    st.sampled_from([*range(1, 10), 2000]),
    st.integers(0, 8),
    st.sampled_from([0.5, 0.9, 0.1, 0.9999]),
    st.sampled_from([1.0, 0.3, 0.001, 4.0]),
)
TRIANGLES = st.builds(
    lambda t, peak, warm, rest: (t, peak, warm, warm + rest), UPDATES, RATES, st.integers(1, 4), st.sampled_from(ENDS)
)


def linear_with_warmup(t: int, peak: float, warm: int, updates: int) -> float:
    """Return the triangle's rate from the library's schedules."""
    return warmup(t, warm, partial(linear, peak=peak, updates=updates - warm))


def joined(report: Report, schedule: Callable[..., float], peak: float, warm: int, floor: float) -> None:
    """Check that the last update of the warm-up has exactly the rate of the next."""
    before, after = (schedule(t, peak, warm, 3 * warm, floor) for t in (warm - 1, warm))
    with_floor = f", floor {floor}" if floor else ""
    sentence = (
        f"peak {peak}, warm {warm}{with_floor}: update {warm - 1} has the rate {before!r}, update {warm} has {after!r};"
        " they must be equal, to the last bit"
    )
    report.true("join", before == after, sentence, float(after - before))


def waves(points: Points) -> list[float]:
    """Return cos^2 interpolation between the points at t = 0, 1, ... up to the last point."""
    ends = [e for e, _ in points[1:]]
    values = []
    for t in range(math.floor(points[-1][0]) + 1):
        i = int(np.searchsorted(ends, t))
        (s, a), (e, b) = list(pairwise(points))[i]
        values.append(b + (a - b) * math.cos(math.pi / 2 * (t - s) / (e - s)) ** 2)
    return values


def value(report: Report, name: str, got: Any, true: float, told: str) -> None:
    """Check a number to within 1e-12."""
    if not report.true("number", isinstance(got, NUMBERS), f"{told} must be a number, not {got!r}"):
        return
    report.true(name, abs(got - true) <= 1e-12, f"{told} must be {true:.6g}, not {got:.6g}", float(got))


def pure(report: Report, schedule: Schedule, updates: int) -> None:
    """Check that the schedule gives the same rates forwards, backwards and from the middle on."""
    forwards = [schedule(t) for t in range(updates)]
    backwards = [schedule(t) for t in reversed(range(updates))][::-1]
    t = next((t for t in range(updates) if forwards[t] != backwards[t]), 0)
    sentence = (
        f"in a second call, update {t} has another value ({forwards[t]:.6g}, then {backwards[t]:.6g}): it keeps "
        "something between calls; only the arguments may count"
    )
    report.true("pure", forwards == backwards, sentence, float(backwards[t] - forwards[t]))


def in_a_trainer(world: Communicator, schedule: Schedule, report: Report) -> None:
    """Check the library's training rates, in one run and resumed at update 4."""
    data = ArrayLoader(np.ones((4, 3), np.float32), np.array([0, 1, 0, 1]), batch=2, seed=1)
    whole, resumed = (Trainer(mlp(MLPConfig(3, (2,), 2)), world, schedule=schedule) for _ in range(2))
    rates = [whole.step(data.batch(n)).lr for n in range(9)]
    resumed.optimizer.updates = 4
    again = [resumed.step(data.batch(n)).lr for n in range(4, 9)]
    report.true("resumed", again == rates[4:], f"a run resumed at update 4 has the rates {again}, not {rates[4:]}")


def refuses(report: Report, call: Callable[[], object], told: str) -> None:
    """Check that the call raises UserError."""
    try:
        did, kind = f"returned {call()!r}", "returned"
    except UserError:
        did = kind = ""
    except Exception as error:
        did = kind = f"raised {type(error).__name__}"
    report.true("error", not did, f"{told}: it must raise UserError, but {did}", f"{told}: {kind}")
