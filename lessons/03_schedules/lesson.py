"""Schedules: the learning rate is a pure function of the step.

python lessons/03_schedules/lesson.py [--figure FILE.svg]
"""

# %% What we need
import argparse
import math
from functools import partial
from itertools import count

import minitrain
import minitrain.lr_schedules as lr
from minitrain.lessons.charts import FILLS, chart, figure
from minitrain.lessons.receipt import Receipt

T, WARM, AREA, MIDDLE, K, FLAT, STEEP = 1000, 100, 30.0, 500, 0.01, 0.1, 10.0  # FLAT, STEEP: curvatures


# %% Six shapes, one area
def shapes(peak: float) -> dict[str, lr.Schedule]:
    """Return six schedules for a run of T updates."""
    return {
        "linear": partial(lr.linear, peak=peak, updates=T),
        "exponential": partial(lr.exponential, peak=peak, gamma=0.01, every=T),
        "inverse": partial(lr.inverse_time, peak=peak, k=K),
        "cosine": partial(lr.cosine, peak=peak, updates=T),
        "warm-up": partial(lr.warmup_cosine, peak=peak, warm=WARM, updates=T),
        "one-cycle": partial(lr.one_cycle, peak=peak, updates=T),
    }


def peaks() -> dict[str, float]:
    """Return for each shape the peak with which its rates sum to AREA: all rates are proportional to the peak."""
    return {name: AREA / sum(schedule(t) for t in range(T)) for name, schedule in shapes(1.0).items()}


def triangle(t: int, peak: float, warm: int, updates: int) -> float:
    """Triangular rate: linear rise over `warm` updates, linear decay over the rest; no update is wasted on rate 0.

    Update 0 has the rate peak / warm; updates warm - 1 and warm both have the peak. Then the rate falls by the same
    amount in each update. It reaches 0 at t = updates, just after the last one, and stays 0. 1 <= warm < updates.
    """
    if t < warm:
        return peak * (t + 1) / warm
    return peak * max(0, updates - t) / (updates - warm)


# %% What the area decides, and what the shape decides
def descend(schedule: lr.Schedule, u: float = 1.0, start: int = 0, end: int = T) -> float:
    """Run SGD on the loss FLAT u^2 / 2 from update `start` to `end`; return u. u and t are the whole state of a run."""
    for t in range(start, end):
        u -= schedule(t) * FLAT * u
    return u


def noise(schedule: lr.Schedule) -> float:
    """Return the mean of u^2 after SGD on STEEP u^2 / 2 from u = 0; gradients have errors of mean 0 and variance 1.

    An update sets u to (1 - rate STEEP) u - rate error. The error is independent of u, so the mean squares add up.
    """
    square = 0.0
    for t in range(T):
        square = (1 - schedule(t) * STEEP) ** 2 * square + schedule(t) ** 2
    return square


def counting(schedule: lr.Schedule) -> lr.Schedule:
    """Return a schedule as it should not be: it counts its own calls, from 0 again when a run is resumed."""
    calls = count()
    return lambda t: schedule(next(calls))


def claim(receipt: Receipt, top: dict[str, float], six: dict[str, lr.Schedule], rates: dict[str, list[float]]) -> None:
    """Fill the receipt."""
    receipt.below("largest |area - 30|", 1e-12, max(abs(math.fsum(r) - AREA) for r in rates.values()))
    receipt.equal("schedules whose largest rate is their peak", 6, sum(max(r) == top[n] for n, r in rates.items()))
    ends = (("linear", T - 1, 1 / T), ("cosine", T, 0.0), ("warm-up", 0, 1 / WARM), ("one-cycle", T - 1, 4e-6))
    for name, t, ratio in ends:
        receipt.near(f"{name}: rate / peak at t = {t}", ratio, six[name](t) / top[name])
    receipt.equal("warm-up: jump at the join", 0.0, six["warm-up"](WARM) - six["warm-up"](WARM - 1))
    receipt.equal("inverse: t at half the peak", round(1 / K), sum(2 * r > top["inverse"] for r in rates["inverse"]))
    lowest = min(range(T), key=partial(lr.one_cycle_momentum, updates=T))
    receipt.equal("one-cycle: t of peak and of lowest momentum", rates["one-cycle"].index(top["one-cycle"]), lowest)
    receipt.equal("triangle: updates with rate 0", 0, sum(triangle(t, 1.0, WARM, T) == 0 for t in range(T)))
    whole = [descend(s) for s in six.values()]
    again = [descend(s, descend(s, end=MIDDLE), MIDDLE) for s in six.values()]
    receipt.equal(f"resumed at {MIDDLE}: runs that end with the same bits", 6, sum(map(float.__eq__, whole, again)))
    bad = [descend(counting(s), descend(counting(s), end=MIDDLE), MIDDLE) for s in six.values()]
    receipt.equal("resumed with a hidden counter: the same", 0, sum(map(float.__eq__, whole, bad)))
    receipt.below("flat: largest |u - e^-3|", 0.001, max(abs(u - math.exp(-FLAT * AREA)) for u in whole))
    late, left = rates["inverse"][-1], noise(six["inverse"])
    receipt.near("steep: noise of inverse, from its last rate", late / (STEEP * (2 - late * STEEP)), left, 0.05)
    receipt.below("steep: noise of cosine / noise of inverse", 0.2, noise(six["cosine"]) / left)


# %% The run
def run(options: argparse.Namespace) -> None:
    """Draw the six schedules, and measure how far SGD gets with each and how much noise remains."""
    receipt, top = Receipt(), peaks()
    six = {name: shapes(peak)[name] for name, peak in top.items()}
    curves = {name: [schedule(t) for t in range(T)] for name, schedule in six.items()}
    print(chart(curves, "lr", "update"))
    print(f"\n{'':11}    peak    last rate    area    flat: u    steep: noise")
    for name, rates in curves.items():
        row = f"{name:11}{top[name]:8.4f}    {rates[-1]:9.2e}    {math.fsum(rates):4.0f}"
        print(f"{row}    {descend(six[name]):7.4f}    {noise(six[name]):12.1e}")
    claim(receipt, top, six, curves)
    if options.figure:
        with figure(options.figure, rows=2, columns=3, height=3.6) as axes:
            for axis, (name, rates) in zip(axes.flat, curves.items(), strict=True):
                axis.fill_between(range(0, T, 9), rates[::9], color=FILLS[2])  # 9 x 111 is T - 1
                axis.set(title=f"{name}: area {AREA:g}", ylim=(0, 0.15), xlabel="update", ylabel="learning rate")
                axis.label_outer()
    receipt.print()


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Return the options given, such as ["--figure", "FILE.svg"]; those of the command line by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", help="write the picture to this file")
    return parser.parse_args(given)


# %% The program
def main() -> None:
    options = arguments()
    with minitrain.launch():
        run(options)


if __name__ == "__main__":
    main()
