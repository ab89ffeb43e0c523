"""Simulated times against a timeline of all ranks; and a measurement on one and two ranks, for its structure."""

import json
from pathlib import Path
from typing import Any

import pytest

from minitrain.cli import main
from minitrain.commands.draw import timed
from minitrain.commands.draw.scaling import ScaledModel, Scaling
from minitrain.errors import UserError
from minitrain.parallel.strategy import Strategy
from minitrain.planner.estimate import estimate
from minitrain.planner.fleet import Fleet
from minitrain.planner.machines import COMPUTERS, Computer
from minitrain.planner.setup import Setup
from minitrain.planner.sizes import Sizes
from minitrain.planner.step import Rank
from minitrain.planner.timeline import Timeline

SMALL = ScaledModel("gpt3-13b", layers=2, heads=2, width=16, context=8, vocabulary=32, batch=8)
SIZES = Sizes("gpt", 32, 8, layers=2, heads=2, width=16)
MACHINE = COMPUTERS["h100"].machine
OPTIONS: dict[str, Any] = {"pp": 2, "tp": 2, "accumulate": 2, "at": 8}


def setup(batch: int, dp: int, accumulate: int) -> Setup:
    """Return an update of the small model on 4 dp ranks."""
    strategy = Strategy(reduce="overlap") if dp > 1 else Strategy()
    return Setup(SIZES, batch, dp, 2, 2, strategy, accumulate, "bf16", True)


def followed(one: Setup) -> tuple[float, float]:
    """Return the seconds of an update in which every rank is followed by itself, and by how much ticks may be off."""
    ranks = [Rank(one, place).update() for place in one.places()]
    timeline = Timeline({rank.number: rank.events for rank in ranks}, MACHINE)
    return float(timeline.time), 1e-12 * sum(len(rank.events) for rank in ranks)


# ranks -> the update of this many: 2 samples of each micro-batch; 4 of each replica on 8 ranks
WEAK = {4: setup(4, 1, 2), 8: setup(8, 2, 2), 16: setup(16, 4, 2), 32: setup(32, 8, 2)}
STRONG = {4: setup(8, 1, 4), 8: setup(8, 2, 2), 16: setup(8, 4, 1), 32: setup(8, 8, 1)}


@pytest.mark.parametrize(("kind", "setups"), [("weak", WEAK), ("strong", STRONG)])
def test_simulated_times_are_those_of_a_timeline_of_all_ranks(
    kind: str, setups: dict[int, Setup], tmp_path: Path
) -> None:
    rows = Scaling(tmp_path, SMALL, ranks=(4, 8, 16, 32), slow=3.0, **OPTIONS).drawing().numbers[kind]
    assert [row["ranks"] for row in rows] == [*setups]
    for row, one in zip(rows, setups.values(), strict=True):
        assert (row["batch"], row["dp"], row["micro_batches"]) == (one.batch, one.dp, one.accumulate)
        true, ticks = followed(one)
        assert row["seconds"] == pytest.approx(true, abs=ticks) and ticks < 1e-4 * true
        assert row["computing"] + row["bubble"] + row["exposed"] == pytest.approx(row["seconds"], rel=1e-9)
        assert row["one_slow"] == float(Fleet(one, MACHINE, {0: 3}).time) > row["seconds"]
    first = rows[0]["seconds"]
    assert [row["ideal"] for row in rows] == [first / (n / 4 if kind == "strong" else 1) for n in setups]


def test_strong_scaling_ends_with_a_sample_for_each_replica(tmp_path: Path) -> None:
    numbers = Scaling(tmp_path, SMALL, ranks=(16, 32, 64), slow=1.0, **OPTIONS).drawing().numbers
    assert [row["ranks"] for row in numbers["weak"]] == [16, 32, 64]
    assert [row["ranks"] for row in numbers["strong"]] == [16, 32]
    assert all("one_slow" not in row for row in (*numbers["weak"], *numbers["strong"]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ranks": (4, 6)}, "pp 2 x tp 2 does not divide 6 ranks"),
        ({"ranks": (8, 8)}, "--ranks is .8.; give at least two"),
        ({"at": 64}, "needs a batch of at least 32"),
        ({"at": 6}, "does not divide"),
        ({"slow": 0.0}, "--slow is 0.0"),
        ({"measured_ranks": (1, 2)}, "--measured-ranks needs --measure"),
        ({"measure": True, "measured_ranks": (2,)}, "does not divide 2 ranks"),
        ({"measure": True, "measured_ranks": (0,)}, "--measured-ranks is 0"),
    ],
)
def test_bad_options(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        Scaling(tmp_path, SMALL, **OPTIONS | options).drawing()


def test_what_cannot_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = Scaling(tmp_path, ScaledModel("gpt2-124m"), measure=True)
    with pytest.raises(UserError, match="gpt2-124m is too large to be trained again and again"):
        large.drawing()
    small = Scaling(tmp_path, measure=True, measured_ranks=(1,))
    with monkeypatch.context() as patched:
        patched.setattr(timed, "find_mpirun", lambda: None)
        with pytest.raises(UserError, match="minitrain doctor"):
            small.drawing()
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(UserError, match="without mpirun"):
        small.drawing()


@pytest.mark.full
def test_measured_on_one_and_two_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--layers 2 --heads 2 --width 16 --context 8 --batch 4 --measured-ranks 1 2 --ranks 1 2 4 --rounds 3"
    assert main(["draw", "scaling", "--measure", *words.split(), "--to", str(tmp_path)]) == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines()[:-1])) <= 80 and "measured on 2 rank(s)" in page
    numbers = json.loads((tmp_path / "scaling.json").read_text("utf-8"))
    assert numbers["machine"] == numbers["machines"]["2"] and numbers["machine"]["per_host"] == 4
    for kind, batches in (("weak", [4, 8, 16]), ("strong", [4, 4, 4])):
        assert [(row["dp"], row["batch"]) for row in numbers[kind]] == [*zip((1, 2, 4), batches, strict=True)]
        points = numbers["measured"][kind]
        assert [(point["ranks"], point["batch"]) for point in points] == [(1, 4), (2, batches[1])]
        for point in points:
            low, middle, high = sorted(point["rounds"])
            assert (point["lowest"], point["seconds"], point["highest"]) == (low, middle, high) and low > 0
            small = Sizes("gpt", 68, 8, layers=2, heads=2, width=16)
            machine = Computer(**numbers["machines"][str(point["ranks"])]).machine
            own = estimate(Setup(small, point["batch"], dp=point["ranks"]), machine).time
            assert point["own"] == pytest.approx(float(own), rel=1e-6)
