"""Comparisons: fair, equal on any number of ranks, and what they show and write."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from minitrain.cli import main
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.commands import compare, compare_precision, compare_schedules, small_runs
from minitrain.commands.compare_schedules import schedule_options
from minitrain.commands.options import LearningRates
from minitrain.commands.small_runs import CompareOptions, Result, overlap, smooth_median, spread, table
from minitrain.data.batch import Batch
from minitrain.train import progress

Capture = pytest.CaptureFixture[str]
SHORT = CompareOptions("schedules", updates=20, lr=(0.003, 0.03), seeds=2)
HALVES = CompareOptions("precision", updates=60, lr=(0.003,), seeds=1)


def test_what_can_be_compared_can_be_asked_for() -> None:
    choices = get_args(get_args(CompareOptions.__annotations__["what"])[0])
    assert compare.COMPARISONS.keys() == {*choices}


# Schedules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", get_args(LearningRates))
def test_each_schedule_uses_its_budget(name: LearningRates) -> None:
    """Each schedule reaches the peak, and ends low if it is one that falls."""
    o = schedule_options(name, 0.01, 200, 45)
    rates = [o.schedule()(t) for t in range(200)]
    assert max(rates) == pytest.approx(0.01, rel=1e-3) and o.steps == 200
    assert min(rates[:20]) < 0.1 * max(rates)
    low = {"constant": 1.0, "inverse-time": 1 / 4, "step": 0.01, "exponential": 0.0105}
    assert rates[-1] <= 0.01 * low.get(name, 1 / 180) * (1 + 1e-9) and rates[-1] > 0


def test_the_same_start() -> None:
    """Runs with the same seed start with the same loss before the first update, other seeds with another."""
    world, options = threads.world_of_one(), replace(SHORT, updates=20)
    first = {
        (name, seed): compare_schedules.train(world, options, schedule_options(name, 0.01, 20, 45), seed).losses[0]
        for name in ("cosine", "one-cycle", "constant")
        for seed in (1, 2)
    }
    assert len({*first.values()}) == 2
    assert all(first["cosine", seed] == first[name, seed] for name, seed in first)


def test_a_run_that_explodes_is_the_worst() -> None:
    options = replace(SHORT, updates=20)
    o = schedule_options("constant", 1e30, 20, 45)
    found = compare_schedules.train(threads.world_of_one(), options, o, 1)
    assert found.validation == found.loss == math.inf and found.accuracy == 0 and 0 < len(found.losses) < 20
    assert small_runs.plain(found)["validation"] is None and small_runs.plain(found)["losses"] == found.losses


@pytest.mark.ranks(3, full=(2,))
def test_the_same_numbers_on_any_ranks(world: Communicator) -> None:
    o = schedule_options("one-cycle", 0.003, 20, 45)
    found, true = (compare_schedules.train(w, SHORT, o, 1) for w in (world, threads.world_of_one()))
    assert found.losses == pytest.approx(true.losses, rel=1e-3) and found.loss == pytest.approx(true.loss, rel=1e-3)
    assert found.accuracy == pytest.approx(true.accuracy, abs=2 / 359)
    assert all(other == found for other in world.gather_objects(found))


def test_the_command(tmp_path: Path, capsys: Capture) -> None:
    """Each schedule is shown at the better of two peaks, with the numbers of the file."""
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
    monkeypatch.setattr(progress, "QUIET", -1.0)
    monkeypatch.setattr(progress, "PULSE", 60.0)
    compare.run(replace(SHORT, seeds=1, lr=(0.01,), out=tmp_path), threads.world_of_one())
    count = len(compare_schedules.NAMES)
    said = capsys.readouterr().out.splitlines()
    runs = [[f"{n} of {count} settings; run: {t} of 20 updates" for t in range(1, 20)] for n in range(count)]
    settings = [[f"{n} of {count} settings"] for n in range(1, count)]
    assert said == [line for pair in zip(runs, [*settings, []], strict=True) for lines in pair for line in lines]


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
        ("precision --updates 19", "--updates is 19"),
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


# Precision ------------------------------------------------------------------------------------------------------------


def precise(name: str, task: str, world: Communicator | None = None) -> compare_precision.HalfResult:
    """Return the run of HALVES with the first seed."""
    world = world or threads.world_of_one()
    parts, settings = compare_precision.TASKS[task], compare_precision.precision_settings(HALVES.updates)
    full, trainer = (compare_precision.precise(world, HALVES, settings[key], parts, 1) for key in ("fp32", name))
    compare_precision.train_precise(full, HALVES, parts, 1)
    return compare_precision.train_precise(trainer, HALVES, parts, 1, full)


def test_in_float32_the_constructed_task_is_the_plain_one() -> None:
    """The constructed task therefore differs only through float16."""
    plain, constructed = (precise("fp32", task) for task in ("plain", "constructed"))
    assert constructed.losses[0] == plain.losses[0]
    assert constructed.losses == pytest.approx(plain.losses, rel=1e-3)
    assert plain.zeros == constructed.zeros == 0


def test_what_the_scale_is_for() -> None:
    """Without a scale, float16 learns the plain task but loses the gradients of the constructed one."""
    full = precise("fp32", "plain")
    bare = {task: precise("fp16, no scale", task) for task in compare_precision.TASKS}
    assert bare["plain"].zeros < 0.05 and bare["plain"].loss == pytest.approx(full.loss, rel=0.1)
    assert bare["constructed"].zeros > 0.3 and bare["constructed"].loss > 1.5 * full.loss
    for name in ("bf16", "fp16, dynamic", "fp16, half weights"):
        found = precise(name, "constructed")
        assert found.zeros < 0.01 and found.loss == pytest.approx(full.loss, rel=0.2), name
        assert found.losses[0] == pytest.approx(full.losses[0], rel=0.01), name


def test_underflow_is_counted() -> None:
    """At float32's weights, all gradients vanish when the loss is divided by 2^60, and none with a scale of 2^60."""
    world, settings = threads.world_of_one(), compare_precision.precision_settings(20)
    full, half = (
        compare_precision.precise(world, HALVES, settings[name], 1, seed) for name, seed in (("fp32", 1), ("bf16", 2))
    )
    learned, _ = small_runs.data(HALVES, 1)
    assert 0 < compare_precision.underflow(full, half, learned.batch(0)) < 0.01  # a relu is barely on, and off in bf16
    assert compare_precision.underflow(full, full, learned.batch(0)) == 0
    pairs = zip(full.model.parameters(), half.model.parameters(), strict=True)
    assert all(np.array_equal(p.data, q.data) for p, q in pairs)
    half = compare_precision.precise(world, HALVES, settings["fp16, static"], 1, 1)
    tiny = compare_precision.weighted(learned.batch(0), 2**60)
    assert compare_precision.underflow(full, half, tiny) == 1
    half.scaler.value = 2.0**60
    assert compare_precision.underflow(full, half, tiny) < 0.01


def test_a_weighted_batch_is_a_part_of_a_larger_one() -> None:
    learned, _ = small_runs.data(HALVES, 1)
    batch: Batch = learned.batch(0)
    found = compare_precision.weighted(batch, 8)
    assert found.where.count == 8 * batch.where.count and found.inputs is batch.inputs
    assert compare_precision.weighted(batch, 1).where.count == batch.where.count


def test_bytes_are_those_of_the_table_in_precision() -> None:
    """4 + 4 + 8 bytes per parameter, with half weights 2 + 2 + 12; half the activations except labels and places."""
    settings = compare_precision.precision_settings(20)
    found = {name: compare_precision.held(threads.world_of_one(), HALVES, o) for name, o in settings.items()}
    for name, size in found.items():
        per = [size[kind] / size["count"] for kind in compare_precision.STATES]
        assert per == ([2, 2, 12] if name == "fp16, half weights" else [4, 4, 8]), name
        ratio = size["activations"] / found["fp32"]["activations"]
        assert (ratio == 1) if name == "fp32" else (0.5 <= ratio < 0.55), name


@pytest.mark.ranks(2)
def test_the_same_in_16_bits_on_any_ranks(world: Communicator) -> None:
    """Results agree up to 16-bit rounding."""
    found, true = (precise("fp16, static", "constructed", w) for w in (world, None))
    assert found.losses == pytest.approx(true.losses, rel=0.1) and found.losses[:3] == pytest.approx(
        true.losses[:3], rel=1e-3
    )
    assert all(other == found for other in world.gather_objects(found))


@pytest.mark.full
def test_the_command_for_precision(tmp_path: Path, capsys: Capture) -> None:
    assert main(["compare", "precision", "--updates", "40", "--seeds", "2", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80
    written = json.loads((tmp_path / "precision.json").read_text())
    names = list(compare_precision.precision_settings(40))
    assert [(row["task"], row["precision"]) for row in written] == [
        (task, n) for task in compare_precision.TASKS for n in names
    ]
    shown = [line for line in lines if line.startswith("fp16, dynamic ")]
    assert len(shown) == 3  # in each task's table and in the cost table
    for row in written:
        for run in row["runs"]:
            assert len(run["losses"]) == len(run["scales"]) == 40
            steps = {b / a for a, b in zip(run["scales"], run["scales"][1:], strict=False)}
            moves = "dynamic" in row["precision"] or "half" in row["precision"]
            assert steps <= {0.5, 1.0, 2.0} and (2.0 in steps) == moves
            assert moves or run["scales"][0] == (4096 if "static" in row["precision"] else 1)
    (plain,) = [row for row in written if (row["task"], row["precision"]) == ("plain", "fp16, dynamic")]
    assert shown[0].split()[4] == f"{sum(run['validation'] for run in plain['runs']) / 2:.3f}"
    assert shown[2].split()[4] == f"{sum(run['skips'] for run in plain['runs']) / 2:g}"


# Processing of results ------------------------------------------------------------------------------------------------


def result(validation: float, losses: list[float] | None = None) -> Result:
    return Result(losses or [2.0, 1.0], validation / 2, validation, 0.9)


def test_medians_and_ranges() -> None:
    assert spread([3.0, 1.0, 2.0], ".1f") == "2.0 (1.0-3.0)" and spread([4.0], ".0f") == "4 (4-4)"
    assert spread([1.0, math.inf, 2.0], ".1f") == "2.0 (1.0-inf)"
    heading, row = table({"a    ": [result(0.5), result(1.0), result(2.0)]}, "     ").splitlines()
    assert row.split() == ["a", "0.500", "(0.250-1.000)", "1.000", "(0.500-2.000)", "90.0", "(90.0-90.0)"]
    assert row.index("1.000 (0.500") == heading.index("validation") and row.index("90.0 ") == heading.index("accuracy")
    curves = [result(1, [4.0, 4.0, 4.0]), result(1, [2.0, 2.0]), result(1, [3.0, 3.0, 3.0])]
    assert smooth_median(curves) == pytest.approx([3.0, 3.0])  # up to the shortest run


def test_what_json_cannot_say_is_null() -> None:
    assert small_runs.plain(result(math.inf, [2.0, math.nan, math.inf])) == {
        "losses": [2.0, None, None], "loss": None, "validation": None, "accuracy": 0.9
    }  # fmt: skip


def test_a_difference_that_is_none_is_said_to_be_none() -> None:
    assert "overlap" in overlap([[result(1.0), result(2.0)], [result(1.5), result(3.0)]])
    assert overlap([[result(1.0), result(2.0)], [result(2.5), result(3.0)]]) == ""
