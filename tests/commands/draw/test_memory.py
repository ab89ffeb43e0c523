"""The drawn bars against the ledgers of real runs."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from minitrain.commands.config import TrainConfig
from minitrain.commands.draw.memory import MemoryOf
from minitrain.commands.options import DataOptions, ModelOptions, ParallelOptions, StrategyOptions
from minitrain.commands.plan_options import PlannedMachine, PlannedModel
from minitrain.errors import UserError
from minitrain.observe.virtual_time import Machine
from tests.planner.counted import of_text, on_ranks

SMALL = PlannedModel("minitrain", layers=6, heads=2, width=8, context=8, batch=8)
REAL = TrainConfig(ModelOptions(layers=6, heads=2, width=8, context=8), DataOptions(batch=8))
MACHINE = Machine(Fraction(1, 10**9))
BUCKET = 4 * (12 * 8**2 + 13 * 8)  # bytes of a block, the largest: what buffers may differ by (planner/test_counted.py)


@pytest.mark.parametrize(
    ("name", "parallel", "strategy"),
    [
        ("ZeRO-2", {"dp": 4}, {"zero": 2}),
        ("interleaved", {"pp": 4, "accumulate": 8}, {"schedule": "interleaved"}),
    ],
)
def test_bars_are_what_the_ledger_counts(name: str, parallel: dict, strategy: dict, tmp_path: Path) -> None:
    """The planner is exact for all kinds but buffers, and with them the total."""
    numbers = MemoryOf(tmp_path, SMALL).drawing().numbers
    (bars,) = (one["bars"] for one in numbers["strategies"] if one["name"] == name)
    config = replace(REAL, parallel=ParallelOptions(**parallel), strategy=StrategyOptions(**strategy))
    counted = on_ranks(lambda world: of_text(config, world, MACHINE), 4)
    assert [bar["rank"] for bar in bars] == [*range(parallel.get("pp", 1))]
    for bar in bars:
        real = counted[bar["rank"]].peak
        assert {kind: bar[kind] for kind in real if kind not in ("buffers", "total")} == {
            kind: n for kind, n in real.items() if kind not in ("buffers", "total")
        }
        assert abs(bar["total"] - real["total"]) <= BUCKET and bar["total"] <= sum(bar[kind] for kind in KINDS)


KINDS = ("parameters", "gradients", "optimizer", "activations", "buffers")


def test_zero_divides_by_the_ranks(tmp_path: Path) -> None:
    """Table 1 of the ZeRO paper, per kind: at stage 1 the optimizer, at 2 the gradients."""
    strategies = MemoryOf(tmp_path, SMALL).drawing().numbers["strategies"]
    plain, one, two, three = (strategy["bars"][0] for strategy in strategies[:4])
    near = lambda part, whole: part == pytest.approx(whole / 4, rel=0.02)
    assert near(one["optimizer"], plain["optimizer"]) and one["gradients"] == plain["gradients"]
    assert two["gradients"] < one["gradients"] and two["parameters"] == one["parameters"]
    assert three["parameters"] < two["parameters"] and three["total"] < two["total"] < plain["total"]


def test_a_schedule_that_does_not_fit_is_named(tmp_path: Path) -> None:
    """Two chunks on each of four ranks need eight units; this model has six."""
    made = MemoryOf(tmp_path, PlannedModel("minitrain", layers=4)).drawing()
    assert "interleaved" not in [one["name"] for one in made.numbers["strategies"]]
    assert "left out: interleaved: 8 stages, but the model has 6 units" in made.text
    assert max(map(len, made.text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pp": 3}, "--pp 3 x --tp 1 does not divide the 4 ranks"),
        ({"tp": 4}, "tp 4: attention has 2 heads"),
        ({"accumulate": 9}, "--accumulate is 9"),
        ({"recompute": 2}, "--recompute is 2"),
        ({"machine": PlannedMachine(ranks=16)}, "dp 16: the batch has 8 sequences"),
    ],
)
def test_bad_options(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        MemoryOf(tmp_path, SMALL, **options).drawing()
