"""Simulated failures agree with the exact expectation, and the best interval with Young's and Daly's."""

import itertools
import math

import numpy as np
import pytest

from minitrain.errors import UserError
from minitrain.planner import failures
from minitrain.planner.failures import Job, daly, rows, simulate, young

HOUR = 3600.0
LARGE = Job(work=50 * HOUR, mtbf=2 * HOUR, checkpoint=60, restart=300)


@pytest.mark.parametrize(
    ("job", "interval"),
    [
        (LARGE, 900.0),
        (Job(10 * HOUR, HOUR, 120, 600), HOUR),  # long intervals: most are lost
        (Job(3 * HOUR, 600, 30, 900), 480.0),  # most restarts fail; the last interval is a half
        (Job(1000, 500, 0, 0), 250.0),
    ],
    ids=str,
)
def test_the_mean_is_the_expectation(job: Job, interval: float) -> None:
    """Within four standard errors of 4,000 trials, in which a correct mean falls in all but 1 of 16,000 cases."""
    times = simulate(job, interval, 4000)
    assert abs(times.mean() - job.expected(interval)) < 4 * times.std(ddof=1) / math.sqrt(len(times))
    assert times.min() >= job.work


@pytest.mark.parametrize("mistake", ["restarts that never fail", "nothing lost"])
def test_the_expectation_sees_mistakes(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: failures that come later than drawn by a restart, or work that is saved as it is done."""
    job, interval = Job(3 * HOUR, 600, 30, 900), 480.0
    if mistake == "nothing lost":
        times = simulate(Job(job.work, job.mtbf, 0, job.restart), 1.0, 4000)
    else:
        original, drawn = failures.until_failure, itertools.count()
        late = lambda *arguments: original(*arguments) + (900_000 if next(drawn) else 0)
        monkeypatch.setattr(failures, "until_failure", late)
        times = simulate(job, interval, 4000)
    assert abs(times.mean() - job.expected(interval)) > 4 * times.std(ddof=1) / math.sqrt(len(times))


@pytest.mark.parametrize(
    ("work", "interval", "checkpoints"), [(100.0, 10.0, 10), (100.0, 30.0, 4), (100.0, 100.0, 1), (100.0, 1000.0, 1)]
)
def test_without_failures_it_is_exact(work: float, interval: float, checkpoints: int) -> None:
    job = Job(work, math.inf, 2.5, 1000)
    assert simulate(job, interval, 3).tolist() == [work + 2.5 * checkpoints] * 3
    assert job.expected(interval) == work + 2.5 * checkpoints


def test_one_trial_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 s of work, a checkpoint of 1 s after every 4, restarts of 3 s."""
    gaps = iter([7.0, 2.0, 8.5, 100.0])  # fails in the second interval; in the restart; after one interval; never
    monkeypatch.setattr(failures, "until_failure", lambda *_: np.array([round(next(gaps) * 1000)]))
    # 7: 4 saved | 2: restart fails | 8.5: restart, 8 saved | restart 3, 2 of work, checkpoint 1
    assert simulate(Job(10, 20, 1, 3), 4, 1).tolist() == [7 + 2 + 8.5 + 3 + 2 + 1]


def test_a_checkpoint_counts_when_it_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure in its last tick loses the interval; one tick later it does not."""
    for fails, then in ((5000, 10 + 1 + 1 + 1), (5001, 6 + 1 + 1)):
        gaps = iter([fails, 10**9])
        monkeypatch.setattr(failures, "until_failure", lambda *_: np.array([next(gaps)]))  # noqa: B023
        assert simulate(Job(10, 20, 1, 0), 4, 1)[0] == pytest.approx(fails / 1000 + then)


def test_intervals_of_the_papers() -> None:
    """Daly's figures 3 to 5: C is 5 minutes; 117, 57 and 9.1 minutes are printed."""
    minutes = lambda mtbf: daly(Job(500 * HOUR, mtbf, 300, 600)) / 60
    assert [round(minutes(24 * HOUR)), round(minutes(6 * HOUR)), round(minutes(900), 1)] == [117, 57, 9.1]
    assert young(Job(1, 5000, 1, 0)) == 100
    assert daly(Job(1, 100, 250, 0)) == 100  # checkpoints longer than the time between failures


def test_the_best_interval_is_youngs_if_checkpoints_are_short() -> None:
    """C is M/1000: among halves and doubles of it, Young's is the best; and Daly's formula is near the exact best."""
    job = Job(100 * HOUR, 10 * HOUR, 36, 60)
    found = [row for row in rows(job, 1000) if row.name != "Daly"]
    assert min(found, key=lambda row: row.mean).name == "Young"
    around = np.linspace(0.8, 1.2, 401) * daly(job)
    per_work = [(math.exp((tau + job.checkpoint) / job.mtbf) - 1) / tau for tau in around]
    assert around[np.argmin(per_work)] == pytest.approx(daly(job), rel=0.01)


def test_where_checkpoints_are_long_dalys_interval_is_better() -> None:
    job = Job(20 * HOUR, 900, 300, 60)
    by_name = {row.name: row for row in rows(job, 300)}
    assert by_name["Daly"].mean < by_name["Young"].mean
    assert by_name["Daly"].expected < by_name["Young"].expected


def test_the_same_numbers_every_time() -> None:
    assert simulate(LARGE, 900, 5).tolist() == simulate(LARGE, 900, 5).tolist()
    assert simulate(LARGE, 900, 5).tolist() != simulate(LARGE, 900, 5, seed=2).tolist()
    assert simulate(LARGE, 900, 5).tolist() == simulate(LARGE, 900, 9)[:5].tolist()


def test_what_never_ends_is_refused() -> None:
    with pytest.raises(UserError, match="give a shorter interval"):
        simulate(Job(1e6, 100, 10, 10), 1e5)
    with pytest.raises(UserError, match="no interval is"):
        next(rows(Job(100, math.inf, 10, 10)))
    for wrong in ({"work": 0}, {"mtbf": 0}, {"checkpoint": -1}, {"restart": math.nan}):
        with pytest.raises(UserError, match="it must be a number"):
            Job(**{"work": 10, "mtbf": 10, "checkpoint": 1, "restart": 1} | wrong)
