"""Comparisons: fair, the same on any ranks, what is shown and written."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from minitrain.cli import main
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.train import compare
from minitrain.train.compare import CompareOptions, Result, overlap, schedule_options, smooth_median, spread, table
from minitrain.train.config import LearningRates

Capture = pytest.CaptureFixture[str]
SHORT = CompareOptions("schedules", updates=20, lr=(0.003, 0.03), seeds=2)


def test_what_can_be_compared_can_be_asked_for() -> None:
    choices = get_args(get_args(CompareOptions.__annotations__["what"])[0])
    assert compare.COMPARISONS.keys() == {*choices}


# Schedules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", get_args(LearningRates))
def test_each_schedule_uses_its_budget(name: LearningRates) -> None:
    """It reaches the peak, and ends low where that is its nature."""
    o = schedule_options(name, 0.01, 200, 45)
    rates = [o.schedule()(t) for t in range(200)]
    assert max(rates) == pytest.approx(0.01, rel=1e-3) and o.steps == 200
    assert min(rates[:20]) < 0.1 * max(rates)
    low = {"constant": 1.0, "inverse-time": 1 / 4, "step": 0.01, "exponential": 0.0105}
    assert rates[-1] <= 0.01 * low.get(name, 1 / 180) * (1 + 1e-9) and rates[-1] > 0


def test_the_same_start() -> None:
    """All runs with one seed have the same loss before the first update, those with another do not."""
    world, options = threads.world_of_one(), replace(SHORT, updates=20)
    first = {
        (name, seed): compare.train(world, options, schedule_options(name, 0.01, 20, 45), seed).losses[0]
        for name in ("cosine", "one-cycle", "constant")
        for seed in (1, 2)
    }
    assert len({*first.values()}) == 2
    assert all(first["cosine", seed] == first[name, seed] for name, seed in first)


def test_a_run_that_explodes_is_the_worst() -> None:
    options = replace(SHORT, updates=20)
    o = schedule_options("constant", 1e30, 20, 45)
    found = compare.train(threads.world_of_one(), options, o, 1)
    assert found.validation == found.loss == math.inf and found.accuracy == 0 and 0 < len(found.losses) < 20
    assert compare.plain(found)["validation"] is None and compare.plain(found)["losses"] == found.losses


@pytest.mark.ranks(2, 3)
def test_the_same_numbers_on_any_ranks(world: Communicator) -> None:
    o = schedule_options("one-cycle", 0.003, 20, 45)
    found, true = (compare.train(w, SHORT, o, 1) for w in (world, threads.world_of_one()))
    assert found.losses == pytest.approx(true.losses, rel=1e-3) and found.loss == pytest.approx(true.loss, rel=1e-3)
    assert found.accuracy == pytest.approx(true.accuracy, abs=2 / 359)
    assert all(other == found for other in world.gather_objects(found))


def test_the_command(tmp_path: Path, capsys: Capture) -> None:
    """Each schedule at the better of two peaks, by the numbers in the file."""
    options = "--updates 20 --seeds 2 --lr 0.003 0.03 --out"
    assert main(["compare", "schedules", *options.split(), str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80
    written = json.loads((tmp_path / "schedules.json").read_text())
    names = get_args(LearningRates)
    assert [(row["schedule"], row["peak"]) for row in written] == [(n, lr) for n in names for lr in (0.003, 0.03)]
    for name in names:
        medians = {
            row["peak"]: sum(run["validation"] for run in row["runs"]) / 2 for row in written if row["schedule"] == name
        }
        (shown,) = [line.split() for line in lines if line.startswith(f"{name} ")]
        assert len(shown) == 8 and float(shown[1]) == min(medians, key=lambda lr: medians[lr])
        assert float(shown[4]) == pytest.approx(min(medians.values()), abs=1e-3)
    assert all(len(run["losses"]) == len(row["rates"]) == 20 for row in written for run in row["runs"])


def test_progress_is_shown(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "QUIET", -1.0)
    compare.run(replace(SHORT, seeds=1, lr=(0.01,), out=tmp_path), threads.world_of_one())
    assert capsys.readouterr().out.splitlines() == [f"{n} of 9 settings" for n in range(1, 9)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "compare"),
        ("sandwiches", "sandwiches"),
        ("schedules --updates 19", "--updates is 19; it must be at least 20"),
        ("schedules --batch 0", "--batch is 0"),
        ("schedules --seeds 0", "--seeds is 0"),
        ("schedules --lr", "--lr names no learning rate"),
        ("schedules --lr 0.01 0", "--lr is 0.0"),
        ("schedules --lr nan", "--lr is nan"),
        ("schedules --lr x", "FLOAT"),
    ],
)
def test_wrong_options(arguments: str, said: str, tmp_path: Path, capsys: Capture) -> None:
    try:
        status: Any = main(["compare", *arguments.split(), "--out", str(tmp_path / "run")])
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    words = " ".join((captured.out + captured.err).split())
    assert status == 2 and said in words and "Traceback" not in words, words
    assert not (tmp_path / "run").exists()


# What is made of the results ------------------------------------------------------------------------------------------


def result(validation: float, losses: list[float] | None = None) -> Result:
    return Result(losses or [2.0, 1.0], validation / 2, validation, 0.9)


def test_medians_and_ranges() -> None:
    assert spread([3.0, 1.0, 2.0], ".1f") == "2.0 (1.0-3.0)" and spread([4.0], ".0f") == "4 (4-4)"
    assert spread([1.0, math.inf, 2.0], ".1f") == "2.0 (1.0-inf)"
    heading, row = table({"a    ": [result(0.5), result(1.0), result(2.0)]}, "     ").splitlines()
    assert row.split() == ["a", "0.500", "(0.250-1.000)", "1.000", "(0.500-2.000)", "90.0", "(90.0-90.0)"]
    assert row.index("1.000 (0.500") == heading.index("validation") and row.index("90.0 ") == heading.index("accuracy")
    curves = [result(1, [4.0, 4.0, 4.0]), result(1, [2.0, 2.0]), result(1, [3.0, 3.0, 3.0])]
    assert smooth_median(curves) == pytest.approx([3.0, 3.0])  # as far as all came


def test_a_difference_that_is_none_is_said_to_be_none() -> None:
    assert "overlap" in overlap([[result(1.0), result(2.0)], [result(1.5), result(3.0)]])
    assert overlap([[result(1.0), result(2.0)], [result(2.5), result(3.0)]]) == ""
