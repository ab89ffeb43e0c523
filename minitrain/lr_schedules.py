"""Learning rates as pure functions of the update number t, counted from 0.

Nothing is remembered between two calls: a run that is resumed at update 500 has the rates of one that never stopped.
`functools.partial` fills in all but t, and `warmup` goes in front of whatever comes out:

    schedule = partial(warmup, updates=100, then=partial(cosine, peak=0.003, updates=900))
    optimizer.step(lr=schedule(t))

Every function raises UserError for a t that is no whole number from 0, for rates that are negative or NaN, for a floor
above the peak, and for what its own lines name.
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
    """Raises UserError unless t is a whole number, the other counts are at least 1, and 0 <= floor <= peak."""
    check_whole("t", t)
    for name, count in counts.items():
        check_whole(name, count, 1)
    check_number("peak", peak, "at least 0")
    check_number("floor", floor, "at least 0")
    if floor > peak:
        raise UserError(f"floor is {floor}, above the peak {peak}; it must be at most peak")


# Down to a floor ------------------------------------------------------------------------------------------------------


def constant(t: int, peak: float) -> float:
    """lr_t = peak"""
    _check(t, peak)
    return peak


def linear(t: int, peak: float, updates: int, floor: float = 0.0) -> float:
    """Down a straight line, and then at the floor.

    lr_t = floor + (peak - floor) (1 - t / updates)
    """
    _check(t, peak, floor, updates=updates)
    progress = min(1.0, t / updates)
    return floor + (peak - floor) * (1 - progress)


def polynomial(t: int, peak: float, updates: int, power: float = 2.0, floor: float = 0.0) -> float:
    """Steep at first and flat at the end for a power above 1, the other way round below; 1 is linear.

        lr_t = floor + (peak - floor) (1 - t / updates)^power

    Raises UserError for a power that is not above 0.
    Chen et al., "DeepLab", arXiv:1606.00915 ("poly", with power 0.9).
    """
    _check(t, peak, floor, updates=updates)
    check_number("power", power, "above 0")
    progress = min(1.0, t / updates)
    return floor + (peak - floor) * (1 - progress) ** power


def cosine(t: int, peak: float, updates: int, floor: float = 0.0) -> float:
    """Down half a cosine: flat at both ends.

        lr_t = floor + (peak - floor) (1 + cos(pi t / updates)) / 2

    Loshchilov, Hutter, "SGDR", arXiv:1608.03983, equation 5.
    """
    _check(t, peak, floor, updates=updates)
    progress = min(1.0, t / updates)
    return floor + (peak - floor) * (1 + math.cos(math.pi * progress)) / 2


def cosine_restarts(t: int, peak: float, period: int, factor: int = 1, floor: float = 0.0) -> float:
    """Half a cosine again and again, each `factor` times as long as the one before: a warm restart after each.

        lr_t = floor + (peak - floor) (1 + cos(pi s / T)) / 2

    with s updates since the last restart and T updates in this period: period x factor^(restarts so far).
    Loshchilov, Hutter, "SGDR", arXiv:1608.03983, equation 5 (T_0 = period, T_mult = factor).
    """
    _check(t, peak, floor, period=period, factor=factor)
    if factor == 1:
        t %= period
    while t >= period:
        t, period = t - period, period * factor
    return cosine(t, peak, period, floor)


def exponential(t: int, peak: float, gamma: float, every: int = 1, floor: float = 0.0) -> float:
    """By the same share in each update: times gamma in `every` updates, until it meets the floor.

        lr_t = max(floor, peak gamma^(t / every))

    Raises UserError for a gamma that is not above 0 and at most 1.
    """
    _check(t, peak, floor, every=every)
    check_number("gamma", gamma, "above 0 and at most 1")
    return max(floor, peak * gamma ** (t / every))


def step(t: int, peak: float, gamma: float, every: int, floor: float = 0.0) -> float:
    """In stairs: times gamma after every so many updates, until it meets the floor.

        lr_t = max(floor, peak gamma^floor(t / every))

    Raises UserError for a gamma that is not above 0 and at most 1.
    He et al., "Deep Residual Learning", arXiv:1512.03385, section 3.4 (gamma 0.1, when the error stands still).
    """
    _check(t, peak, floor, every=every)
    check_number("gamma", gamma, "above 0 and at most 1")
    return max(floor, peak * gamma ** (t // every))


def inverse_time(t: int, peak: float, k: float = 1.0, every: int = 1, floor: float = 0.0) -> float:
    """As one over the time. With the updates of an epoch as `every` it is the well-known peak / (1 + k epoch).

        lr_t = max(floor, peak / (1 + k floor(t / every)))

    Without a floor the sum over all t is infinite and that of the squares is not: under the paper's conditions such
    rates reach the minimum in spite of noisy gradients. Raises UserError for a k below 0.
    Robbins, Monro, "A Stochastic Approximation Method", Ann. Math. Statist. 22(3), 1951.
    """
    _check(t, peak, floor, every=every)
    check_number("k", k, "at least 0")
    return max(floor, peak / (1 + k * (t // every)))


# Up first -------------------------------------------------------------------------------------------------------------


def warmup(t: int, updates: int, then: Schedule) -> float:
    """Up in a line over so many updates, and from there on as `then` says, which begins at its own update 0.

        lr_t = then(0) (t + 1) / updates       for t < updates
        lr_t = then(t - updates)               afterwards

    The last update of the first line has the rate of the first of the second, to the last bit: no jump.
    Goyal et al., "Accurate, Large Minibatch SGD", arXiv:1706.02677, section 2.2.
    """
    check_whole("t", t)
    check_whole("updates", updates)
    if t + 1 < updates:
        return then(0) * (t + 1) / updates
    return then(max(0, t - updates))  # at t + 1 = updates, then(0) x updates / updates could be another number


def warmup_cosine(t: int, peak: float, warm: int, updates: int, floor: float = 0.0) -> float:
    """Up to the peak in `warm` of all the updates, then down to the floor along half a cosine.

        lr_t = peak (t + 1) / warm                                         for t < warm
        lr_t = floor + (peak - floor) (1 + cos(pi (t - warm) / n)) / 2     for the n = updates - warm that are left
        lr_t = floor                                                       from t = updates on

    No jump at the join: updates warm - 1 and warm have the same rate, to the last bit. There may be no warm-up (0).
    Raises UserError for one that leaves nothing of the updates. See warmup and cosine for the papers.
    """
    check_whole("warm", warm)
    check_whole("updates", updates, 1)
    if warm >= updates:
        raise UserError(f"warm is {warm}, which leaves nothing of the {updates} updates; it must be less")
    return warmup(t, warm, partial(cosine, peak=peak, updates=updates - warm, floor=floor))


def range_test(t: int, least: float, most: float, updates: int) -> float:
    """From the least rate to the most, times the same factor in each update: where does training explode?

        lr_t = least (most / least)^(t / (updates - 1))

    `python -m minitrain lr-range` runs it. Raises UserError unless 0 < least < most and there are 2 updates or more.
    Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv:1506.01186, section 3.3, where the rates grow
    in a line; by a factor they cover several orders of magnitude.
    """
    check_whole("t", t)
    check_whole("updates", updates, 2)
    check_number("least", least, "above 0")
    check_number("most", most, "above 0")
    if least >= most:
        raise UserError(f"least is {least}, not below most, which is {most}; give a smaller one")
    if math.isinf(float(most) / float(least)):
        raise UserError(f"least is {least}, too far below most, which is {most}, for a float; give a larger one")
    return least * (most / least) ** (min(t, updates - 1) / (updates - 1))


def anneal(t: int, points: Sequence[tuple[float, float]]) -> float:
    """Through points (update, value), from each to the next along half a cosine; at the last value afterwards.

        value_t = b + (a - b) (1 + cos(pi (t - s) / (e - s))) / 2     for s <= t <= e, between (s, a) and (e, b)

    t is a whole number, the points' updates need not be. One point alone is a constant. Raises UserError unless the
    first point has update 0 and each a larger one than the point before.
    """
    check_whole("t", t)
    updates = [update for update, _ in points]
    if not updates or updates[0] != 0 or not all(s < e for s, e in pairwise(updates)):
        raise UserError(f"points is {shown(points)}; their updates must begin at 0 and grow")
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
    """Up from peak / start to the peak, down again as slowly, then a short drop to `end` times below the start.

        (0, peak / start)  (top, peak)  (2 top, peak / start)  (updates - 1, peak / start / end)

    are the points, half cosines between them, and top = rise x updates - 1. With two phases the third point is left
    out: the drop begins at the top. Large rates in the middle are meant to regularise; the momentum goes the other way
    (one_cycle_momentum). PyTorch's OneCycleLR is this with rise 0.3, and two phases unless told otherwise; the paper
    has straight lines. Raises UserError for a rise that leaves no update to one of the phases, and for a start or end
    not above 0.
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
    """The momentum that goes with one_cycle: down where the rate goes up, up where it comes down, high at the end.

        (0, high)  (top, low)  (2 top, high)  (updates - 1, high)

    are the points, half cosines between them, and top = rise x updates - 1; with two phases without the third. A step
    is about lr / (1 - momentum) gradients long, and less memory lets the large rates in the middle be larger. SGD's
    momentum, or Adam's beta1. Raises UserError for momenta that are not in [0, 1), low above high, or a wrong rise.
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
    """The update, not always a whole number, at which one_cycle has its peak. Raises UserError when there is none."""
    check_number("rise", rise, "above 0 and less than 1")
    top = rise * updates - 1
    if not 0 < top * (2 if three_phases else 1) < updates - 1:
        raise UserError(
            f"rise is {rise}: of {updates} updates it leaves none for one of the phases of the cycle; "
            f"give {'at most 0.5' if three_phases else 'less'}, or more updates"
        )
    return top


# By what was measured -------------------------------------------------------------------------------------------------


def _check_losses(losses: Any) -> None:
    """Raises UserError unless they are a sequence of numbers, which may be infinite or NaN: so a run went."""
    if not isinstance(losses, Sequence) or not all(isinstance(x, Real) and not isinstance(x, bool) for x in losses):
        raise UserError(f"losses is {shown(losses)}; it must be a list of numbers")


def reduce_on_plateau(
    losses: Sequence[float],
    peak: float,
    factor: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    cooldown: int = 0,
    floor: float = 0.0,
) -> float:
    """The rate for the next epoch, after epochs with these validation losses: times `factor` at each plateau.

    A plateau is more than `patience` epochs in a row without a loss below (1 - threshold) x the best one. After a
    reduction, `cooldown` epochs do not count. The history is the whole state: called with all losses so far, a run that
    is resumed gets the rate of one that never stopped. A loss that is no number is no improvement.

    Equals PyTorch's ReduceLROnPlateau with eps=0 (which leaves out reductions by less than eps). Raises UserError for a
    factor outside (0, 1), counts below 0, a threshold outside [0, 1), losses that are no sequence of numbers.
    """
    _check(0, peak, floor)
    _check_losses(losses)
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
