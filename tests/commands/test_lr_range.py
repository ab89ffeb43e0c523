"""The range test: the suggested rate, when it stops, equal on any number of ranks, the files in the folder."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from minitrain.cli import main
from minitrain.comm import threads
from minitrain.comm.communicator import Communicator
from minitrain.commands import figure, lr_range
from minitrain.commands.config import TrainConfig
from minitrain.commands.lr_range import record, smooth, suggest_rate
from minitrain.commands.options import (
    DataOptions,
    ModelOptions,
    OptimizerOptions,
    PrecisionOptions,
    RunOptions,
    StrategyOptions,
)
from minitrain.errors import UserError
from minitrain.lr_schedules import range_test

Capture = pytest.CaptureFixture[str]
N = 100
RATES = [range_test(t, 1e-5, 1.0, N) for t in range(N)]


def curve(steepest: int, explodes: int = 85) -> list[float]:
    """Return losses that fall from 3 to 1, steepest at one update, and explode after another."""
    falls = [3 - 2 / (1 + math.exp(-(t - steepest) / 6)) for t in range(N)]
    return [loss + max(0.0, t - explodes) ** 2 for t, loss in enumerate(falls)]


def here(config: TrainConfig, world: Communicator) -> tuple[list[float], list[float]]:
    return record(config, world, 1e-4, 30.0, 60)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Return a run on words in random order."""
    path = tmp_path_factory.mktemp("text") / "tiny.txt"
    path.write_text(" ".join(np.random.default_rng(1).choice(["the", "cat", "sat", "on", "a", "mat"], 600)))
    return TrainConfig(
        ModelOptions(layers=1, heads=2, width=16, context=16, dtype="float64"),
        DataOptions(path, batch=7),
        report=RunOptions(out=path.parent / "run"),
    )


# The suggested rate ---------------------------------------------------------------------------------------------------


def test_a_mean_that_forgets() -> None:
    losses = [3.0, 1.0, 2.0, 5.0]
    for t, found in enumerate(smooth(losses, 0.8), 1):
        weights = [0.8 ** (t - i) for i in range(1, t + 1)]
        assert math.isclose(found, np.average(losses[:t], weights=weights))
    assert smooth(losses, 0.0) == losses and np.allclose(smooth([2.5] * 50), 2.5)


@pytest.mark.parametrize("steepest", [25, 40, 60])
def test_where_the_loss_falls_steepest(steepest: int) -> None:
    """The running mean over about ten updates lags by at most ten."""
    losses = curve(steepest)
    assert suggest_rate(RATES, losses, memory=0.0) == pytest.approx(RATES[steepest])
    named = RATES.index(suggest_rate(RATES, losses))
    assert steepest <= named <= steepest + 10


def test_what_does_not_matter() -> None:
    """The loss's scale and offset, the rate's unit and updates after the explosion do not matter."""
    losses = curve(40)
    named = suggest_rate(RATES, losses)
    assert suggest_rate(RATES, [8 * x + 3 for x in losses]) == named
    assert suggest_rate([16 * rate for rate in RATES], losses) == pytest.approx(16 * named)
    assert suggest_rate(RATES[:95], losses[:95]) == named
    back = [*losses, *(3.0 for _ in range(9))]  # it falls again, steeper than before
    assert suggest_rate([*RATES, *(2.0 + t for t in range(9))], back) == named


@pytest.mark.parametrize("losses", [[1.0] * N, list(range(1, N + 1))], ids=["flat", "rising"])
def test_a_loss_that_never_falls(losses: list[float]) -> None:
    with pytest.raises(UserError, match=r"hardly fell.*--min-lr"):
        suggest_rate(RATES, losses)


@pytest.mark.parametrize(
    ("rates", "losses", "said"),
    [
        (RATES, [1.0] * 99, "100 rates for 99 losses"),
        ([], [], "0 rates"),
        ([1.0], [1.0], "1 rates"),
        (RATES[::-1], curve(40), "must grow"),
        ([0.0, *RATES[1:]], curve(40), "above 0"),
        (RATES, [math.nan, *curve(40)[1:]], "one of the losses is nan"),
        (["x", *RATES[1:]], curve(40), "one of the rates is 'x'"),
    ],
)
def test_what_is_no_curve(rates: Any, losses: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        suggest_rate(rates, losses)


@pytest.mark.parametrize("memory", [1.0, -0.1, math.nan, "x"])
def test_what_is_no_memory(memory: Any) -> None:
    with pytest.raises(UserError, match="memory"):
        suggest_rate(RATES, curve(40), memory)


# The run --------------------------------------------------------------------------------------------------------------


def test_the_losses_are_those_of_training(tiny: TrainConfig) -> None:
    """The loss stays constant at tiny rates, then falls, and in the end rises."""
    rates, losses = here(tiny, threads.world_of_one())
    assert rates == [range_test(t, 1e-4, 30.0, 60) for t in range(len(rates))]
    assert len(rates) == len(losses) and abs(losses[1] - losses[0]) < 0.2
    assert min(losses) < losses[0] - 0.5 and losses[-1] > min(losses) + 0.5
    named = suggest_rate(rates, losses)
    assert rates[10] <= named <= rates[int(np.argmin(smooth(losses)))]


def test_a_loss_that_explodes_ends_the_test(tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lr_range, "EXPLODED", 1.2)
    _, losses = here(tiny, threads.world_of_one())
    assert 10 < len(losses) < 60
    smoothed = smooth(losses)
    late = [x > 1.2 * min(smoothed[: t + 1]) for t, x in enumerate(smoothed)]
    assert late == [False] * (len(losses) - 1) + [True]


@pytest.mark.parametrize("updates", [60, 3])
def test_a_loss_that_is_no_number_ends_the_test(updates: int, tiny: TrainConfig) -> None:
    """The program continues. In few updates, the loss is NaN without having been large before."""
    config = replace(tiny, optimizer=OptimizerOptions(clip=0.0))
    rates, losses = record(config, threads.world_of_one(), 1e-4, 1e300, updates)
    assert 0 < len(losses) < updates and all(map(math.isfinite, losses)) and len(rates) == len(losses)


def test_a_first_update_that_fails(tiny: TrainConfig) -> None:
    """There is no curve to show: a rate of 1e-50 is 0 in float32."""
    config = replace(tiny, model=replace(tiny.model, dtype="float32"))
    with pytest.raises(UserError, match="the first update of AdamW changed no weight"):
        record(config, threads.world_of_one(), 1e-50, 1.0, 60)


def test_half_precision_may_skip(tiny: TrainConfig, capsys: Capture) -> None:
    """A batch that overflows has no loss; the next batch is run at its rate, so no rate is skipped."""
    precision = PrecisionOptions(precision="fp16", loss_scale=2.0**30)
    config = replace(tiny, model=replace(tiny.model, dtype="float32"), precision=precision)
    rates, losses = record(config, threads.world_of_one(), 1e-4, 1.0, 40)
    assert capsys.readouterr().out.count("skipped: gradients overflowed") > 3
    assert len(losses) == 40 and all(map(math.isfinite, losses))
    assert rates == [range_test(t, 1e-4, 1.0, 40) for t in range(40)]


def test_the_momentum_stays(tiny: TrainConfig) -> None:
    """The range test varies only the rate, whatever the run's schedule would do."""
    cycle = replace(tiny, optimizer=OptimizerOptions(lr_schedule="one-cycle"))
    assert here(cycle, threads.world_of_one()) == here(tiny, threads.world_of_one())


@pytest.mark.ranks(3, full=(2,))
def test_the_same_curve_on_any_ranks(world: Communicator, tiny: TrainConfig) -> None:
    """Curves agree up to the explosion; after it, a difference in the last bit grows as fast as the loss."""
    true = here(tiny, threads.world_of_one())
    calm = int(np.argmin(smooth(true[1])))
    for options in (StrategyOptions(), StrategyOptions(zero=2)):
        rates, losses = here(replace(tiny, strategy=options), world)
        assert calm > 20 and np.allclose(losses[:calm], true[1][:calm], rtol=1e-8)
        assert suggest_rate(rates, losses) == suggest_rate(*true)
        assert len({*world.gather_objects(len(losses))}) == 1


# The command ----------------------------------------------------------------------------------------------------------


def arguments(tiny: TrainConfig, out: Path, *more: str) -> list[str]:
    sizes = "--layers 1 --heads 2 --width 16 --context 16 --batch 7 --min-lr 1e-4 --max-lr 30 --updates 60"
    return ["lr-range", *sizes.split(), "--text", str(tiny.data.text), "--out", str(out), *more]


def test_the_command(tiny: TrainConfig, tmp_path: Path, capsys: Capture) -> None:
    assert main(arguments(tiny, tmp_path)) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= max(80, len(str(tmp_path)) * 2 + 60)
    written = json.loads((tmp_path / "lr_range.json").read_text())
    assert written["named"] == suggest_rate(written["rates"], written["losses"])
    assert written["smoothed"] == smooth(written["losses"])
    assert f"falls steepest at --lr {written['named']:.1e}" in shown and str(tmp_path / "lr_range.json") in shown


def test_the_picture(tiny: TrainConfig, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    pictures = []
    for name in ("a", "b"):
        assert main(arguments(tiny, tmp_path / name)) == 0
        pictures.append((tmp_path / name / "lr_range.svg").read_bytes())
    assert ElementTree.fromstring(pictures[0]).tag.endswith("svg") and pictures[0] == pictures[1]


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers are written, and a message says what is missing."""
    monkeypatch.setattr(figure.importlib.util, "find_spec", lambda name: None)
    said = figure.write(tmp_path / "x.json", {"y": [1.5]}, lambda axes: pytest.fail("drew"))
    assert "pip install matplotlib" in said and json.loads((tmp_path / "x.json").read_text()) == {"y": [1.5]}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_curve_without_a_rate(tiny: TrainConfig, tmp_path: Path, capsys: Capture) -> None:
    """The curve is drawn and written anyway."""
    assert main(arguments(tiny, tmp_path, "--min-lr", "1e-9", "--max-lr", "1e-8", "--updates", "12")) == 0
    shown = capsys.readouterr().out
    assert "no rate is suggested: the loss is lowest at update" in shown
    assert json.loads((tmp_path / "lr_range.json").read_text())["named"] is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--min-lr 0", "min_lr is 0.0"),
        ("--min-lr nan", "min_lr is nan"),
        ("--max-lr inf", "max_lr is inf"),
        ("--min-lr 2 --max-lr 1", "min_lr is 2.0, not below max_lr"),
        ("--updates 1", "updates is 1; it must be at least 2"),
        ("--updates x", "INT"),
        ("--batch 0", "--batch is 0"),
    ],
)
def test_wrong_options(options: str, said: str, tiny: TrainConfig, tmp_path: Path, capsys: Capture) -> None:
    try:
        status: Any = main(arguments(tiny, tmp_path / "run", *options.split()))
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    words = " ".join((captured.out + captured.err).split())
    assert status == 2 and said in words and "Traceback" not in words, words


@pytest.mark.skipif(sys.platform == "win32", reason="another system's words")
def test_a_folder_that_cannot_be_written(tiny: TrainConfig, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "lr_range.json").mkdir()
    for folder in (tmp_path / "file" / "run", tmp_path):
        with pytest.raises(SystemExit) as end:
            main(arguments(tiny, folder))
        said = capsys.readouterr().err
        assert end.value.code == 2 and str(folder) in said and "--out" in said, said
