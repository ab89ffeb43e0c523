"""Learning rates as pure functions of the update number t, counted from 0.

Schedules keep no state between calls: a run resumed at update 500 has the same rates as one that never stopped.
`functools.partial` fills in every argument but t, and `warmup` can precede any schedule:

    schedule = partial(warmup, updates=100, then=partial(cosine, peak=0.003, updates=900))
    optimizer.step(lr=schedule(t))

Every function raises UserError for a t that is not a whole number of at least 0, for rates that are negative or NaN,
for a floor above the peak, and for the cases that its own docstring lists.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from numbers import Real
from typing import Any

from .errors import UserError, check_number, check_whole, shown

Schedule = Callable[[int], float]


def _check(t: Any, peak: Any, floor: Any = 0.0, **counts: Any) -> None:
    """Raise UserError unless t is a whole number, the other counts are at least 1, and 0 <= floor <= peak."""
    check_whole("t", t)
    for name, count in counts.items():
        check_whole(name, count, 1)
    check_number("peak", peak, "at least 0")
    check_number("floor", floor, "at least 0")
    if floor > peak:
        raise UserError(f"floor is {floor}, above the peak {peak}; it must be at most peak")


# Decay to a floor -----------------------------------------------------------------------------------------------------


def constant(t: int, peak: float) -> float:
    """Constant rate: lr_t = peak."""
    _check(t, peak)
    return peak


def linear(t: int, peak: float, updates: int, floor: float = 0.0) -> float:
    """Linear decay from the peak to the floor in `updates` updates, then constant.

    lr_t = floor + (peak - floor) (1 - t / updates)
    """
    _check(t, peak, floor, updates=updates)
    progress = min(1.0, t / updates)
    return floor + (peak - floor) * (1 - progress)


def polynomial(t: int, peak: float, updates: int, power: float = 2.0, floor: float = 0.0) -> float:
    """Polynomial decay: for power > 1 steep at first and flat at the end, for power < 1 the reverse; 1 is linear.

        lr_t = floor + (peak - floor) (1 - t / updates)^power

    Raise UserError unless power > 0.
    Chen et al., "DeepLab", arXiv:1606.00915 ("poly", with power 0.9).
    """
    _check(t, peak, floor, updates=updates)
    check_number("power", power, "above 0")
    progress = min(1.0, t / updates)
    return floor + (peak - floor) * (1 - progress) ** power


def cosine(t: int, peak: float, updates: int, floor: float = 0.0) -> float:
    """Cosine decay: half a cosine from the peak to the floor, flat at both ends.

        lr_t = floor + (peak - floor) (1 + cos(pi t / updates)) / 2

    Loshchilov, Hutter, "SGDR", arXiv:1608.03983, equation 5.
    """
    _check(t, peak, floor, updates=updates)
    progress = min(1.0, t / updates)
    return floor + (peak - floor) * (1 + math.cos(math.pi * progress)) / 2


def cosine_restarts(t: int, peak: float, period: int, factor: int = 1, floor: float = 0.0) -> float:
    """Cosine decay with warm restarts: each period is `factor` times as long as the one before.

        lr_t = floor + (peak - floor) (1 + cos(pi s / T)) / 2

    s counts the updates since the last restart, and T = period x factor^(restarts so far) is the current period.
    Loshchilov, Hutter, "SGDR", arXiv:1608.03983, equation 5 (T_0 = period, T_mult = factor).
    """
    _check(t, peak, floor, period=period, factor=factor)
    if factor == 1:
        t %= period
    while t >= period:
        t, period = t - period, period * factor
    return cosine(t, peak, period, floor)


def exponential(t: int, peak: float, gamma: float, every: int = 1, floor: float = 0.0) -> float:
    """Exponential decay: multiply by gamma over `every` updates, down to the floor.

        lr_t = max(floor, peak gamma^(t / every))

    Raise UserError unless 0 < gamma <= 1.
    """
    _check(t, peak, floor, every=every)
    check_number("gamma", gamma, "above 0 and at most 1")
    return max(floor, peak * gamma ** (t / every))


def step(t: int, peak: float, gamma: float, every: int, floor: float = 0.0) -> float:
    """Step decay: multiply by gamma every `every` updates, down to the floor.

        lr_t = max(floor, peak gamma^floor(t / every))

    Raise UserError unless 0 < gamma <= 1.
    He et al., "Deep Residual Learning", arXiv:1512.03385, section 3.4 (gamma 0.1, when the error plateaus).
    """
    _check(t, peak, floor, every=every)
    check_number("gamma", gamma, "above 0 and at most 1")
    return max(floor, peak * gamma ** (t // every))


def inverse_time(t: int, peak: float, k: float = 1.0, every: int = 1, floor: float = 0.0) -> float:
    """Inverse time decay. With `every` set to the updates of an epoch it is the familiar peak / (1 + k epoch).

        lr_t = max(floor, peak / (1 + k floor(t / every)))

    Without a floor the rates have an infinite sum but a finite sum of squares: under the paper's conditions they
    reach the minimum despite noisy gradients. Raise UserError unless k >= 0.
    Robbins, Monro, "A Stochastic Approximation Method", Ann. Math. Statist. 22(3), 1951.
    """
    _check(t, peak, floor, every=every)
    check_number("k", k, "at least 0")
    return max(floor, peak / (1 + k * (t // every)))


# Warm-up and cycles ---------------------------------------------------------------------------------------------------


def warmup(t: int, updates: int, then: Schedule) -> float:
    """Linear warm-up over `updates` updates, followed by the schedule `then`, which starts at its own update 0.

        lr_t = then(0) (t + 1) / updates       for t < updates
        lr_t = then(t - updates)               afterwards

    There is no jump: the last warm-up update has exactly the rate of the first update after it.
    Goyal et al., "Accurate, Large Minibatch SGD", arXiv:1706.02677, section 2.2.
    """
    check_whole("t", t)
    check_whole("updates", updates)
    if t + 1 < updates:
        return then(0) * (t + 1) / updates
    return then(max(0, t - updates))  # at t + 1 = updates, then(0) x updates / updates could round differently


def warmup_cosine(t: int, peak: float, warm: int, updates: int, floor: float = 0.0) -> float:
    """Linear warm-up to the peak in `warm` of the updates, then cosine decay to the floor.

        lr_t = peak (t + 1) / warm                                         for t < warm
        lr_t = floor + (peak - floor) (1 + cos(pi (t - warm) / n)) / 2     for the remaining n = updates - warm
        lr_t = floor                                                       from t = updates on

    There is no jump: updates warm - 1 and warm have exactly the same rate. warm = 0 means no warm-up.
    Raise UserError unless warm < updates. See warmup and cosine for the papers.
    """
    check_whole("warm", warm)
    check_whole("updates", updates, 1)
    if warm >= updates:
        raise UserError(f"warm is {warm}, which leaves none of the {updates} updates; it must be less")
    return warmup(t, warm, partial(cosine, peak=peak, updates=updates - warm, floor=floor))


def range_test(t: int, min_lr: float, max_lr: float, updates: int) -> float:
    """Learning-rate range test: grow geometrically from min_lr to max_lr, to find where training diverges.

        lr_t = min_lr (max_lr / min_lr)^(t / (updates - 1))

    `python -m minitrain lr-range` runs it. Raise UserError unless 0 < min_lr < max_lr and updates >= 2.
    Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv:1506.01186, section 3.3. There the rates
    grow linearly; geometric growth covers several orders of magnitude.
    """
    check_whole("t", t)
    check_whole("updates", updates, 2)
    check_number("min_lr", min_lr, "above 0")
    check_number("max_lr", max_lr, "above 0")
    if min_lr >= max_lr:
        raise UserError(f"min_lr is {min_lr}, not below max_lr, which is {max_lr}; give a smaller one")
    if math.isinf(float(max_lr) / float(min_lr)):
        raise UserError(f"min_lr is {min_lr}, too far below max_lr, which is {max_lr}, for a float; give a larger one")
    return min_lr * (max_lr / min_lr) ** (min(t, updates - 1) / (updates - 1))


def anneal(t: int, points: Sequence[tuple[float, float]]) -> float:
    """Interpolate points (update, value) by half cosines; constant after the last point.

        value_t = b + (a - b) (1 + cos(pi (t - s) / (e - s))) / 2     for s <= t <= e, between (s, a) and (e, b)

    t is a whole number; the points' updates need not be. A single point gives a constant. Raise UserError unless the
    points' updates start at 0 and increase.
    """
    check_whole("t", t)
    updates = [update for update, _ in points]
    if not updates or updates[0] != 0 or not all(s < e for s, e in pairwise(updates)):
        raise UserError(f"points is {shown(points)}; their updates must begin at 0 and increase")
    for (s, a), (e, b) in pairwise(points):
        if t <= e:
            return b + (a - b) * (1 + math.cos(math.pi * (t - s) / (e - s))) / 2
    return points[-1][1]


def one_cycle(
    t: int,
    peak: float,
    updates: int,
    rise: float = 0.45,
    start: float = 25.0,
    end: float = 1e4,
    three_phases: bool = True,
) -> float:
    """One cycle: rise from peak / start to the peak, fall as slowly, then drop to the starting rate / end.

        (0, peak / start)  (top, peak)  (2 top, peak / start)  (updates - 1, peak / start / end)

    are the points, joined by half cosines, with top = rise x updates - 1. With two phases the third point is omitted:
    the drop starts at the top. The large rates in the middle are meant to regularise; the momentum moves the opposite
    way (one_cycle_momentum). PyTorch's OneCycleLR defaults to rise 0.3 and two phases; the paper uses straight lines.
    Raise UserError if rise leaves a phase without updates, and unless start and end are above 0.
    Smith, Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates",
    arXiv:1708.07120, section 3.
    """
    _check(t, peak, updates=updates)
    check_number("start", start, "above 0")
    check_number("end", end, "above 0")
    top, low = _top(rise, updates, three_phases), peak / start
    back = [(2 * top, low)] if three_phases else []
    return anneal(t, [(0, low), (top, peak), *back, (updates - 1, low / end)])


def one_cycle_momentum(
    t: int, updates: int, low: float = 0.85, high: float = 0.95, rise: float = 0.45, three_phases: bool = True
) -> float:
    """Momentum for one_cycle: it falls while the rate rises, rises while the rate falls, and ends high.

        (0, high)  (top, low)  (2 top, high)  (updates - 1, high)

    are the points, joined by half cosines, with top = rise x updates - 1; two phases omit the third. A step is about
    lr / (1 - momentum) gradients long, so a lower momentum permits larger rates in the middle. Use it for SGD's
    momentum or Adam's beta1. Raise UserError unless 0 <= low <= high < 1, and if rise leaves a phase without updates.
    Smith, "A disciplined approach to neural network hyper-parameters: Part 1", arXiv:1803.09820, section 4.3.
    """
    check_whole("updates", updates, 1)
    check_number("low", low, "at least 0 and less than 1")
    check_number("high", high, "at least 0 and less than 1")
    if low > high:
        raise UserError(f"low is {low}, above high, which is {high}; it must be at most high")
    top = _top(rise, updates, three_phases)
    back = [(2 * top, high)] if three_phases else []
    return anneal(t, [(0, high), (top, low), *back, (updates - 1, high)])


def _top(rise: float, updates: int, three_phases: bool) -> float:
    """Return the update, possibly fractional, at which one_cycle peaks. Raise UserError if a phase has no updates."""
    check_number("rise", rise, "above 0 and less than 1")
    top = rise * updates - 1
    if not 0 < top * (2 if three_phases else 1) < updates - 1:
        better = f"more than {1 / updates:.3g}" if top <= 0 else "at most 0.5"
        raise UserError(
            f"rise is {rise}: with {updates} updates it leaves none for one of the phases of the cycle; "
            f"give {better}, or more updates"
        )
    return top


# From measured losses -------------------------------------------------------------------------------------------------


def reduce_on_plateau(
    losses: Sequence[float],
    peak: float,
    factor: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    cooldown: int = 0,
    floor: float = 0.0,
) -> float:
    """Return the rate of the next epoch, given all validation losses so far: multiply by `factor` at each plateau.

    A plateau is more than `patience` consecutive epochs without a loss below (1 - threshold) x the best one. After a
    reduction, `cooldown` epochs do not count. The losses are the whole state, so a resumed run gets the rate of one
    that never stopped. A NaN loss is not an improvement.

    Equals PyTorch's ReduceLROnPlateau with eps=0 (it skips reductions by less than eps). Raise UserError for a factor
    outside (0, 1), negative counts, a threshold outside [0, 1), or losses that are not a sequence of numbers.
    """
    _check(0, peak, floor)
    if not isinstance(losses, Sequence) or not all(isinstance(x, Real) and not isinstance(x, bool) for x in losses):
        raise UserError(f"losses is {shown(losses)}; it must be a list of numbers")
    check_number("factor", factor, "above 0 and less than 1")
    check_number("threshold", threshold, "at least 0 and less than 1")
    check_whole("patience", patience)
    check_whole("cooldown", cooldown)
    rate, best, bad, rest = peak, math.inf, 0, 0
    for loss in losses:
        better = loss < best * (1 - threshold)
        best, bad = (loss, 0) if better else (best, bad + 1)
        if rest > 0:
            rest, bad = rest - 1, 0
        if bad > patience:
            rate, bad, rest = max(rate * factor, floor), 0, cooldown
    return rate
