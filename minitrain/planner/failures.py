"""Failures and checkpoints: how long a job of thousands of ranks takes if it goes back to its last checkpoint.

    |-- tau --|C|-- tau --|C|-- tau - x   R  |-- tau --|C| ...      x: a failure. C: write a checkpoint. R: restart

Each rank fails after a time that is exponentially distributed with mean m, and so one of N ranks fails after M = m/N.
A failure loses what was done since the last checkpoint, and takes R, in which further failures may occur. Per interval:

    expected time       E = M e^(R/M) (e^((tau+C)/M) - 1)                 exact (Daly)
    overhead            about C/tau + tau/(2M), if C and tau are far below M
    best interval       sqrt(2 C M)                                       Young
                        sqrt(2 C M) (1 + sqrt(C/(2M))/3 + C/(18M)) - C    Daly, higher order; M from C = 2M on

`simulate` draws the failures instead, for many trials at once: an array operation per failure, not per checkpoint.

Young, "A first order approximation to the optimum checkpoint interval", CACM 17(9), 1974. Daly, "A higher order
estimate of the optimum checkpoint interval for restart dumps", Future Generation Computer Systems 22(3), 2006.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .. import rng
from ..errors import UserError, check_number, check_seed, check_whole

TICK = 1e-3  # seconds
MOST_TICKS = 2**60
MOST_TIME = 1e13  # seconds, less than 2^60 ticks; the longest time to a failure is 37 means
MOST_FAILURES = 1e4  # expected per trial


@dataclass(frozen=True)
class Job:
    """A job of `work` seconds without failures. mtbf: mean seconds between failures of any of its ranks, or infinity.

    checkpoint, restart: seconds to write a checkpoint, and to be running again after a failure. A checkpoint follows
    each interval of work, also the last one, which may be shorter. Raise UserError for negative times.
    """

    work: float
    mtbf: float
    checkpoint: float
    restart: float

    def __post_init__(self) -> None:
        check_number("the work", self.work, "above 0")
        if self.mtbf != math.inf:
            check_number("the time between failures", self.mtbf, "above 0")
        check_number("the time of a checkpoint", self.checkpoint, "at least 0")
        check_number("the time of a restart", self.restart, "at least 0")

    def expected(self, tau: float) -> float:
        """Return the expected seconds, exactly, with checkpoints after each tau seconds of work."""
        whole, rest = divmod(self.work, tau)
        pieces = [(whole, tau + self.checkpoint), (1, rest + self.checkpoint)][: 2 if rest else 1]
        if self.mtbf == math.inf:
            return sum(n * each for n, each in pieces)
        M = self.mtbf
        try:
            return sum(n * M * math.exp(self.restart / M) * math.expm1(each / M) for n, each in pieces)
        except OverflowError:
            return math.inf


def young(job: Job) -> float:
    """Return Young's interval, sqrt(2 C M), in seconds."""
    return math.sqrt(2 * job.checkpoint * job.mtbf)


def daly(job: Job) -> float:
    """Return Daly's interval, in seconds."""
    C, M = job.checkpoint, job.mtbf
    if M == math.inf or C >= 2 * M:
        return M
    x = C / (2 * M)
    return math.sqrt(2 * C * M) * (1 + math.sqrt(x) / 3 + x / 9) - C


def simulate(job: Job, tau: float, trials: int = 1000, seed: int = 1) -> np.ndarray:
    """Return the seconds that the job takes in each trial, (trials), with checkpoints after each tau seconds of work.

    Time passes in ticks of a millisecond. All intervals meet the same random numbers, so that they can be compared.
    Raise UserError for an interval or work of less than a tick, and if the job would hardly ever end.
    """
    check_whole("the number of trials", trials, 1)
    check_seed(seed)
    check_number("the interval", tau, "above 0")
    if min(tau, job.work) < TICK:
        raise UserError(f"{min(tau, job.work)} s between checkpoints are less than a tick, {TICK} s; give more")
    if not ends(job, tau):
        raise UserError(
            f"with a failure every {job.mtbf:.3g} s, {job.work:.3g} s of work and checkpoints after {tau:.3g} s "
            f"take {job.expected(tau):.3g} s on average: give a shorter interval, less work, or fewer ranks"
        )
    work, step, checkpoint, restart = (
        round(seconds / TICK) for seconds in (job.work, min(tau, job.work), job.checkpoint, job.restart)
    )
    left = np.full(trials, work)  # to be done since the last checkpoint
    time = np.zeros(trials, np.int64)
    failures = 0
    while left.any():
        fails = until_failure(job.mtbf, trials, rng.key(seed, "failures", failures))
        begin = restart if failures else 0
        need = begin + left + -(-left // step) * checkpoint
        done = fails > need
        time += np.where(left > 0, np.where(done, need, fails), 0)
        saved = step * (np.maximum(fails - begin - 1, 0) // (step + checkpoint))
        left = np.where(done, 0, np.maximum(left - saved, 0))
        failures += 1
        if time.max() >= MOST_TICKS:
            raise UserError("a job takes more than 36 million years; give less work, or fewer failures")
    return time * TICK


def until_failure(mtbf: float, trials: int, key: int) -> np.ndarray:
    """Return the ticks until a failure in each trial, int64 (trials): in the last of these the failure occurs.

    More than x ticks pass with probability e^(-x/M), the exponential distribution's.
    """
    if mtbf == math.inf:
        return np.full(trials, 2**62)
    u = ((rng.words(key, 0, trials) >> np.uint64(11)).astype(np.float64) + 1) / 2**53  # in (0, 1]
    return np.maximum(np.ceil(-mtbf / TICK * np.log(u)), 1).astype(np.int64)


def ends(job: Job, tau: float) -> bool:
    """Return whether the job is expected to end after a reasonable time, and number of failures."""
    expected = job.expected(tau)
    longest = expected if job.mtbf == math.inf else max(expected, job.mtbf)
    return longest <= MOST_TIME and expected <= MOST_FAILURES * job.mtbf


@dataclass(frozen=True)
class Row:
    """What checkpoints after `interval` seconds of work cost. expected: seconds of the job, by the formula.

    mean, error: of the simulated seconds, and their standard error; infinite if the job hardly ever ends. name: whose
    interval it is, or "".
    """

    interval: float
    expected: float
    mean: float
    error: float
    name: str = ""


def rows(job: Job, trials: int = 1000, seed: int = 1) -> Iterator[Row]:
    """Yield a row for Young's interval, for halves and multiples of it, and for Daly's, in order of the interval.

    Raise UserError without failures, or if checkpoints take no time: no interval is best then.
    """
    check_whole("the number of trials", trials, 2)
    if not 0 < young(job) < math.inf:
        raise UserError(
            f"a checkpoint takes {job.checkpoint} s and a failure occurs every {job.mtbf} s, so that no interval is "
            "best: give a time above 0, and a finite one"
        )
    named = {young(job) * 2.0**power: "" for power in range(-4, 5)} | {young(job): "Young", daly(job): "Daly"}
    for interval, name in sorted(named.items()):
        if interval > job.work or interval < TICK:
            continue
        mean = error = math.inf
        if ends(job, interval):
            times = simulate(job, interval, trials, seed)
            mean, error = float(times.mean()), float(times.std(ddof=1)) / math.sqrt(trials)
        yield Row(interval, job.expected(interval), mean, error, name)
